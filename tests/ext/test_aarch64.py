"""The C of `ext/` on AArch64, by an emulator: NEON with and without products of bytes, against plain C."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pytest

HERE = Path(__file__).parent
EXT = HERE.parents[1] / "ext"
MATMUL = sorted(path for path in (EXT / "matmul").glob("*.c") if path.name != "module.c")
PYTHON = Path(sysconfig.get_paths()["include"])
MODULES = [EXT / "matmul/module.c", EXT / "guard.c", EXT / "quantize.c", EXT / "ranks.c"]
COMPILER, EMULATOR, DEBIAN_NAME = "aarch64-linux-gnu-gcc", "qemu-aarch64", "aarch64-linux-gnu"
OPTIONS = ["-O1", "-std=gnu11", "-fno-math-errno", "-Wno-psabi", "-pthread"]
NEAR = 2e-6  # of the largest number of a result

pytestmark = pytest.mark.xdist_group("aarch64")

for tool in (COMPILER, EMULATOR):
    if shutil.which(tool) is None:
        pytest.skip(
            f"{tool} is not installed: on Debian, apt-get install gcc-aarch64-linux-gnu qemu-user",
            allow_module_level=True,
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where programs are built. Debian's headers find this machine's configuration of Python there."""
    folder = tmp_path_factory.mktemp("aarch64")
    (folder / DEBIAN_NAME).symlink_to(PYTHON.parent / str(sysconfig.get_config_var("MULTIARCH")))
    return folder


def options(folder: Path) -> list[str]:
    folders = [EXT, EXT / "matmul", folder, PYTHON]
    return [*OPTIONS, *(f"-I{path}" for path in folders)]


@pytest.fixture(scope="module")
def library(folder: Path) -> list[str]:
    """All of `ext/matmul` but what Python calls."""
    compilers = [
        subprocess.Popen([COMPILER, *options(folder), "-c", source], cwd=folder) for source in MATMUL
    ]
    assert [compiler.wait() for compiler in compilers] == [0] * len(MATMUL)
    return [f"{source.stem}.o" for source in MATMUL]


def built(folder: Path, name: str, compiler: str, objects: Sequence[str] = (), *links: str) -> Path:
    program = folder / f"{name}-{compiler}"
    arguments = [*options(folder), HERE / f"{name}.c", *objects, "-static", *links, "-lm", "-o", program]
    subprocess.run([compiler, *arguments], cwd=folder, check=True)
    return program


def lines_of(*command: str | Path) -> list[list[str]]:
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [line.split() for line in ran.stdout.splitlines()]


def differences(program: Path, cpu: str) -> dict[str, dict[str, float]]:
    """What the program prints, by instruction set, and by format or step."""
    found: dict[str, dict[str, float]] = {}
    for kernels, name, difference in lines_of(EMULATOR, "-cpu", cpu, program):
        found.setdefault(kernels, {})[name] = float(difference)
    return found


def far(found: dict[str, dict[str, float]]) -> list[tuple[str, str]]:
    return [
        (kernels, name) for kernels, of in found.items() for name, wrong in of.items() if not wrong < NEAR
    ]


def test_a_cpu_with_products_of_bytes_computes_what_plain_c_does(folder: Path, library: list[str]):
    products = built(folder, "instruction_sets", COMPILER, library)
    found = differences(products, "max")
    assert list(found) == ["neon_dotprod", "neon", "plain"]
    assert {"f32", "bf16", "q4_0", "q6_k", "mxfp4", "int4", "nf4"} <= set(found["neon"])
    assert far(found) == []


def test_the_steps_between_products_are_those_of_plain_c(folder: Path, library: list[str]):
    steps = built(folder, "steps", COMPILER, library)
    found = differences(steps, "max")
    assert list(found) == ["neon_dotprod", "neon", "plain"]
    assert {"attend_prompt", "attend_whole", "gelu", "delta_rule", "replay"} <= set(found["neon"])
    assert far(found) == []
    assert list(differences(steps, "cortex-a53")) == ["neon", "plain"]  # which has no products of bytes


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_quantizers_make_the_same_bytes_on_both_kinds_of_processor(folder: Path):
    links = ["-Wl,--unresolved-symbols=ignore-all", "-ffp-contract=off"]  # Python is not called
    there, here = (built(folder, "quantizers", compiler, (), *links) for compiler in (COMPILER, "gcc"))
    assert lines_of(EMULATOR, there) == lines_of(here)


@pytest.mark.parametrize("source", MODULES, ids=lambda source: source.stem)
def test_what_python_calls_compiles(folder: Path, source: Path):
    subprocess.run([COMPILER, *options(folder), "-Wall", "-Werror", "-fsyntax-only", source], check=True)
