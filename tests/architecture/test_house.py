"""The house numbers: file sizes, package contents, secrets of the workplace."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAX_LINES = 400
SOURCES = {".py", ".pyx", ".c", ".h"}
LONG_WITH_REASON: dict[str, str] = {}  # file: why it is longer


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_no_source_file_is_longer_than_the_limit():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in tracked()
        if path.suffix in {".py", ".pyx", ".c", ".h"}
        and (lines := len(path.read_text().splitlines())) > MAX_LINES
    }
    assert set(long) <= set(LONG_WITH_REASON), long


def test_nothing_generated_is_tracked():
    suffixes = {".c", ".so", ".pyd", ".sqlite3", ".log", ".pyc"}
    generated = {path for path in tracked() if path.suffix in suffixes}
    written = {*(ROOT / "tests/ext").glob("*.c"), *(ROOT / "ext").rglob("*.c")}
    assert generated <= written


def test_the_weights_stay_small():
    weights = ROOT / "neuron/models/tiny/helexa-tiny/model.safetensors"
    assert weights.stat().st_size <= 16 << 20
