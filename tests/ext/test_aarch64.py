"""Products on AArch64, by an emulator: of NEON with and without products of bytes, against plain C."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

MATMUL = Path(__file__).parents[2] / "ext/matmul"
PROGRAM = Path(__file__).with_name("instruction_sets.c")
SOURCES = ["for_neon", "for_neon_dotprod", "for_plain", "instructions", "pool", "product"]
COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
NEAR = 2e-6  # of the largest number of a result

for tool in (COMPILER, EMULATOR):
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("aarch64")
    sources = [PROGRAM, *(MATMUL / f"{name}.c" for name in SOURCES)]
    options = ["-O1", "-std=gnu11", "-fno-math-errno", "-Wno-psabi", "-pthread", f"-I{MATMUL}"]
    compilers = [subprocess.Popen([COMPILER, *options, "-c", source], cwd=folder) for source in sources]
    assert [compiler.wait() for compiler in compilers] == [0] * len(sources)
    objects = [f"{source.stem}.o" for source in sources]
    subprocess.run(
        [COMPILER, "-static", "-pthread", *objects, "-lm", "-o", "program"], cwd=folder, check=True
    )
    return folder / "program"


def differences(program: Path, cpu: str) -> dict[str, dict[str, float]]:
    """What the program prints, by instruction set and format."""
    ran = subprocess.run([EMULATOR, "-cpu", cpu, program], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, dict[str, float]] = {}
    for line in ran.stdout.splitlines():
        name, form, difference = line.split()
        found.setdefault(name, {})[form] = float(difference)
    return found


def test_a_cpu_with_products_of_bytes_computes_what_plain_c_does(program: Path):
    found = differences(program, "max")
    assert list(found) == ["neon_dotprod", "neon", "plain"]
    assert {"f32", "bf16", "q4_0", "q6_k", "mxfp4", "int4", "nf4"} <= set(found["neon"])
    assert [
        (name, form) for name, of in found.items() for form, wrong in of.items() if not wrong < NEAR
    ] == []


def test_a_cpu_without_them_is_found_out(program: Path):
    assert list(differences(program, "cortex-a53")) == ["neon", "plain"]
