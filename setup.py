"""Builds `ext/` with Cython where a compiler is; without one the same files run as Python.

`CORTEX_PURE_PYTHON=1` at build time leaves the compiler out on purpose.
"""

from __future__ import annotations

import os

from setuptools import Extension, setup

MODULES = ["ext.chunk", "ext.http", "ext.peek", "ext.sse", "ext.stream"]


def extensions() -> list[Extension]:
    """Always cythonized from the source: a generated .c left behind must never win."""
    if os.environ.get("CORTEX_PURE_PYTHON"):
        return []
    from Cython.Build import cythonize  # noqa: PLC0415 - a build-time dependency

    paths = {name: name.replace(".", "/") for name in MODULES}
    modules = [
        Extension(name, [f"{path}.py"], depends=[f"{path}.pxd"], optional=True)
        for name, path in paths.items()
    ]
    built: list[Extension] = cythonize(modules, force=True, build_dir="build/cython")
    return built


setup(ext_modules=extensions())
