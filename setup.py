"""The packages, where the options lie in them, and what is compiled; all else stands in
pyproject.toml."""

from setuptools import Extension, find_packages, setup

convolutions = Extension(
    "fedsim.kernels._convolutions",
    ["fedsim/kernels/_convolutions.c"],
    depends=["fedsim/kernels/_processors.h", "fedsim/kernels/_convolutions_kernel.h"],
    # Bits, and what is not finite, are part of the result
    extra_compile_args=["-O3", "-fno-fast-math", "-ffp-contract=off"],
    optional=True,  # without a compiler fedsim installs all the same: torch does what it would do
)

setup(
    # conf/ stands at the top of the repository, and as fedsim/conf in a wheel
    packages=[*find_packages(include=["fedsim", "fedsim.*"]), "fedsim.conf"],
    package_dir={"fedsim.conf": "conf"},
    package_data={"fedsim": ["**/*.pyi"], "fedsim.conf": ["**/*.yaml"]},
    ext_modules=[convolutions],
)
