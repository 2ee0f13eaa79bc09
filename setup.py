"""Builds `ext/` with Cython where a compiler is; without one the same files run as Python.

The products of `ext/matmul/` are C; without a compiler torch multiplies.

`CORTEX_PURE_PYTHON=1` at build time leaves the compiler out on purpose.
"""

from __future__ import annotations

import os
from pathlib import Path

from setuptools import Extension, setup

MATMUL = Path("ext/matmul")
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
    return [*built, matmul(), *plain_c()]


def matmul() -> Extension:
    """Its sources say themselves which instructions they are compiled for."""
    return Extension(
        "ext.matmul._matmul",
        sorted(map(str, MATMUL.glob("*.c"))),
        depends=sorted(map(str, MATMUL.glob("*.h"))),
        extra_compile_args=["-O3", "-std=gnu11", "-fno-math-errno", "-pthread"],
        extra_link_args=["-pthread"],
        optional=True,
    )


def plain_c() -> list[Extension]:
    flags = {
        "ext.guard": [],
        # Numbers are rounded as by the twins in torch: no two operations are made one.
        "ext.quantize": ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"],
    }
    return [
        Extension(name, [f"{name.replace('.', '/')}.c"], extra_compile_args=args, optional=True)
        for name, args in flags.items()
    ]


setup(ext_modules=extensions())
