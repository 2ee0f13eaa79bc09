"""Builds `ext/` and the path of a request with Cython where a compiler is; without one they run as Python.

The products of `ext/matmul/` are C; without a compiler torch multiplies. A source distribution holds what
Cython made, and needs the compiler alone.

`CORTEX_PURE_PYTHON=1` at build time leaves the compiler out on purpose.
"""

from __future__ import annotations

import os
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

MATMUL = Path("ext/matmul")
MODULES = [
    "ext.chunk",
    "ext.http",
    "ext.ledger",
    "ext.peek",
    "ext.prefetch",
    "ext.sse",
    "ext.stream",
    "ext.writer",
]
REQUEST_PATH = [  # what an ordinary request passes through; each of them runs as Python, too
    "cortex_site.base.unread",
    "cortex_site.http.answer_reader",
    "cortex_site.http.client_connection",
    "cortex_site.http.deadline",
    "cortex_site.http.protocol",
    "cortex_site.http.request_reader",
    "cortex_site.http.response_head",
    "fleet.breaker",
    "fleet.gateway.answer_head",
    "fleet.gateway.dialects.chat",
    "fleet.gateway.dialects.chat_body",
    "fleet.gateway.dispatch",
    "fleet.gateway.exchange",
    "fleet.gateway.http.body",
    "fleet.gateway.http.connection",
    "fleet.gateway.http.pool",
    "fleet.gateway.http.waiter",
    "fleet.gateway.limits.estimate",
    "fleet.gateway.limits.keys",
    "fleet.gateway.nodes.adapter",
    "fleet.gateway.nodes.nodes",
    "fleet.gateway.record.draft",
    "fleet.gateway.relay",
    "fleet.router",
    "fleet.snapshot",
    "fleet.translation.chat.answer",
    "fleet.translation.chat.inline_reasoning",
    "fleet.translation.chat.usage",
    "fleet.translation.events",
    "fleet.translation.messages.answer",
    "fleet.translation.messages.call",
    "fleet.translation.messages.conversation",
    "fleet.translation.turns",
]
CYTHON = [*MODULES, *REQUEST_PATH]
GENERATED = Path("ext/generated")  # in a source distribution only


def extensions() -> list[Extension]:
    if os.environ.get("CORTEX_PURE_PYTHON"):
        return []
    return [*(distributed() if GENERATED.is_dir() else cythonized()), matmul(), *plain_c()]


def cythonized() -> list[Extension]:
    """Always from the source: a generated .c left behind must never win."""
    from Cython.Build import cythonize  # noqa: PLC0415 - a build-time dependency

    paths = {name: name.replace(".", "/") for name in CYTHON}
    modules = [
        Extension(name, [f"{path}.py"], depends=[f"{path}.pxd"], extra_compile_args=["-O3"], optional=True)
        for name, path in paths.items()
    ]
    built: list[Extension] = cythonize(modules, force=True, build_dir="build/cython")
    return built


def distributed() -> list[Extension]:
    return [Extension(name, [str(generated(name))], optional=True) for name in CYTHON]


def generated(name: str) -> Path:
    return GENERATED / f"{name}.c"


class ParallelBuild(build_ext):
    """As many compilers at once as there are cores, unless `--parallel` says how many."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()


class SourceDistribution(sdist):
    """The source, and what Cython makes of it."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        for extension in self.distribution.ext_modules or ():
            if extension.name in CYTHON:
                target = Path(base_dir) / generated(extension.name)
                target.parent.mkdir(exist_ok=True)
                self.copy_file(extension.sources[0], str(target))


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
        "ext.ranks": ["-O3"],
        "ext.quantize": ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"],
    }
    return [
        Extension(
            name,
            [f"{name.replace('.', '/')}.c"],
            depends=sorted(map(str, Path("ext").glob("*.h"))),
            extra_compile_args=args,
            optional=True,
        )
        for name, args in flags.items()
    ]


setup(ext_modules=extensions(), cmdclass={"build_ext": ParallelBuild, "sdist": SourceDistribution})
