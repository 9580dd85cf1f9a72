"""The parts of fedsim that are compiled; all else about the package stands in pyproject.toml."""

from setuptools import Extension, setup


def compiled(name: str) -> Extension:
    """fedsim.NAME, from NAME.c and what it includes."""
    return Extension(
        f"fedsim.{name}",
        [f"fedsim/{name}.c"],
        depends=["fedsim/_processors.h", f"fedsim/{name}_kernel.h"],
        extra_compile_args=["-O3", "-fno-fast-math", "-ffp-contract=off"],  # bits, and what is not finite, are part of the result
        optional=True,  # without a compiler fedsim installs all the same: torch does what these would do
    )


setup(ext_modules=[compiled("_products"), compiled("_convolutions")])
