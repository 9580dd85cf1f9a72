"""The one part of fedsim that is compiled; all else about the package stands in pyproject.toml."""

from setuptools import Extension, setup

products = Extension(
    "fedsim._products",
    ["fedsim/_products.c"],
    depends=["fedsim/_products_kernel.h"],
    extra_compile_args=["-O3", "-fno-fast-math", "-ffp-contract=off"],  # bits, and what is not finite, are part of the result
    optional=True,  # without a compiler fedsim installs all the same: fedsim/products.py does without
)

setup(ext_modules=[products])
