"""Builds `ext/` with Cython where a compiler is; without one the same files run as Python.

`CORTEX_PURE_PYTHON=1` at build time leaves the compiler out on purpose.
"""

from __future__ import annotations

import os

from setuptools import Extension, setup

MODULES = ["ext.sse"]


def extensions() -> list[Extension]:
    """Always cythonized from the source: a generated .c left behind must never win."""
    if os.environ.get("CORTEX_PURE_PYTHON"):
        return []
    from Cython.Build import cythonize  # noqa: PLC0415 - a build-time dependency

    modules = [Extension(name, [f"{name.replace('.', '/')}.py"], optional=True) for name in MODULES]
    built: list[Extension] = cythonize(modules, force=True, build_dir="build/cython")
    return built


setup(ext_modules=extensions())
