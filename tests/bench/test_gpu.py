"""bench.gpu, as far as it goes without a GPU: a dry run on a bare machine, and how it takes failures."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.budget import Budget
from bench.gpu import conductor, facts, parity, sampler, wheels, worker
from bench.gpu.case import Case, LeftOutError, WrongError
from bench.gpu.conductor import PARTS, Conductor
from bench.gpu.lab import STAND_IN, Lab, Way, make_sides
from bench.gpu.results import Journal, Result, table
from tests.bench.running import ROOT, documented, output
from tests.device.kernels import varlen

CPU = torch.device("cpu")
# Packages of a gateway host, and of our tests, that a bare machine does not have.
ABSENT = (
    "celery", "channels", "cortex_site", "django", "fleet", "hypothesis", "ninja", "psycopg",
    "pydantic_settings", "pytest_asyncio", "redis", "uvicorn", "uvloop",
)  # fmt: skip


@pytest.fixture
def bare(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A checkout with nothing but what bench.gpu takes along, and an environment without other packages."""
    checkout, absent = tmp_path / "checkout", tmp_path / "absent"
    for folder in ("bench", "neuron", "tests/device"):
        ignored = shutil.ignore_patterns(".venvs", "__pycache__", "results")
        shutil.copytree(ROOT / folder, checkout / folder, ignore=ignored)
    shutil.copy(ROOT / "constraints.txt", checkout)
    absent.mkdir()
    for name in ABSENT:
        (absent / f"{name}.py").write_text(f"raise ModuleNotFoundError('{name} is not here')\n")
    return checkout, {**os.environ, "PYTHONPATH": str(absent)}


def test_a_dry_run_on_a_bare_machine_measures_every_part(bare, tmp_path: Path):
    checkout, environment = bare
    kept = tmp_path / "results.jsonl"
    options = ["--smoke", "--within", "1000", "--results", str(kept), "--json"]
    *before, last = output([str(checkout / "bench" / "gpu"), *options], cwd=tmp_path, env=environment)
    result: dict[str, Any] = json.loads(last)
    assert not before
    assert sorted(result) == sorted(documented("bench.command") + documented("bench.gpu"))
    assert result["failed"] == []
    runs = [json.loads(line) for line in kept.read_text().splitlines()]
    assert {run["part"] for run in runs} >= PARTS.keys() - {"decode-large"}
    assert {run["how"] for run in runs if run["part"] == "parity"} == {
        "gather",
        STAND_IN,
        f"{STAND_IN}, graphs",
    }
    assert {run["note"] for run in runs if run["part"] == "tests"} == {"no CUDA device"}
    assert result["keep_as"].startswith("bench/results/gpu-cpu-torch-")


# --- processes that fail ---


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "results.jsonl")
    yield made
    made.close()


def conduct(
    journal: Journal, tmp_path: Path, script: str, *parts: str, seconds: float = 60.0, **slices: float
) -> list[Result]:
    """The results of parts that are measured by a script, which gets their names."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys, time\n"
        "from bench.gpu.results import Result, send\n"
        "parts = [part.partition('=')[0] for part in sys.argv[3:]]\n" + script
    )
    made = Conductor(
        journal,
        Budget(seconds),
        lambda _: None,
        sites=[ROOT],
        slices=PARTS | slices,
        program=[sys.executable, str(program)],
    )
    made.run(parts)
    return journal.results


DIES = """
for part in parts:
    send({"begin": part})
    send(Result(part, "before", 1.0))
    if part == "prefill":
        os._exit(70)
    send({"end": part})
"""


HANGS = """
send({"begin": parts[0]})
if parts[0] == "decode":
    time.sleep(100)
send({"end": parts[0]})
"""


def test_a_process_that_dies_costs_its_own_part_alone(journal, tmp_path):
    results = conduct(journal, tmp_path, DIES, "device", "decode", "prefill", "sampler", "guided")
    assert [(result.part, result.name, result.ok) for result in results] == [
        ("device", "before", True),
        ("decode", "before", True),
        ("prefill", "before", True),
        ("prefill", "the rest of it", False),
        ("sampler", "before", True),
        ("guided", "before", True),
    ]
    assert results[3].note == "the process ended, status 70"
    kept = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [Result(**line) for line in kept] == results


def test_a_part_that_stands_still_is_ended(journal, tmp_path, monkeypatch):
    monkeypatch.setattr(conductor, "GRACE_S", 0.5)
    results = conduct(journal, tmp_path, HANGS, "decode", "prefill", decode=0.0)
    assert [(result.part, result.note) for result in results] == [("decode", "not done in time")]


def test_parts_that_no_time_is_left_for_are_named(journal, tmp_path):
    results = conduct(journal, tmp_path, "", "device", "decode", seconds=0.0)
    assert [(result.part, result.ok, result.note) for result in results] == [
        ("device", None, "no time left"),
        ("decode", None, "no time left"),
    ]


# --- cases that fail ---


def fail(error: Exception) -> float:
    raise error


CASES = [
    Case("value", "ms", "gather", lambda: 1.5),
    Case("fact", "", "", lambda: "a fact"),
    Case("mistake", "ms", "", lambda: fail(ValueError("no\nmore"))),
    Case("wrong", "nats", "", lambda: fail(WrongError(9.0, "more than 0.5"))),
    Case("absent", "", "", lambda: fail(LeftOutError("not here"))),
    Case("after", "s", "", lambda: 2.0),
]


@pytest.fixture
def sent(monkeypatch) -> list[Result]:
    results: list[Result] = []
    monkeypatch.setattr(worker, "send", results.append)
    return results


def test_a_case_that_fails_is_a_result_and_the_others_go_on(sent, monkeypatch):
    monkeypatch.setattr(sampler, "cases", lambda part, lab: iter(CASES))
    worker.run("sampler", Lab(CPU, is_smoke=True), Budget())
    assert sent == [
        Result("sampler", "value", 1.5, "ms", "gather"),
        Result("sampler", "fact", note="a fact"),
        Result("sampler", "mistake", None, "ms", ok=False, note="ValueError: no"),
        Result("sampler", "wrong", 9.0, "nats", ok=False, note="more than 0.5"),
        Result("sampler", "absent", ok=None, note="not here"),
        Result("sampler", "after", 2.0, "s"),
    ]


def test_cases_that_no_time_is_left_for_are_named(sent, monkeypatch):
    monkeypatch.setattr(sampler, "cases", lambda part, lab: iter(CASES))
    worker.run("sampler", Lab(CPU, is_smoke=True), Budget(0.0))
    assert sent == [Result("sampler", "from value on", how="gather", ok=None, note="no time left")]


def test_a_device_that_cannot_be_trusted_ends_the_process(sent, monkeypatch):
    poisoned = [Case("poison", "", "", lambda: fail(torch.AcceleratorError("illegal address"))), *CASES]
    monkeypatch.setattr(sampler, "cases", lambda part, lab: iter(poisoned))
    with pytest.raises(SystemExit) as end:
        worker.run("sampler", Lab(CPU, is_smoke=True), Budget())
    assert end.value.code == worker.POISONED
    assert [(result.name, result.ok) for result in sent] == [("the device", False)]


# --- what the device says ---


def altered(name: str, value: Any) -> Way:
    """The kernel, told something else."""

    def attend(*arguments: Any, **options: Any) -> torch.Tensor:
        return varlen(*arguments, **options | {name: value(options[name])})

    return Way(name, attend)


@pytest.mark.parametrize("dtype", parity.TOLERANCE)
def test_attention_that_is_wrong_is_no_parity(dtype: torch.dtype):
    sides = make_sides("least", dtype, CPU, initializer_range=parity.SPREAD)
    lengths = 7, 140
    assert parity.difference(sides, Way("right", varlen), lengths) < parity.TOLERANCE[dtype] / 4
    for wrong in (
        altered("block_table", torch.zeros_like),
        altered("window_size", lambda _: (64, 0)),
        altered("scale", lambda scale: 1.3 * scale),
    ):
        with pytest.raises(WrongError, match="more than"):
            parity.difference(sides, wrong, lengths)


def test_a_torch_without_the_kernel_is_named_and_measured_by_other_ways(monkeypatch):
    monkeypatch.setattr(facts, "find_varlen_kernel", lambda: None)
    lab = Lab(CPU, is_smoke=True)
    told = {case.name: worker.measured("device", case) for case in facts.cases("device", lab)}
    assert told["paged kernel"].note == "not in this torch: pages are gathered"
    decoder = make_sides("least", torch.float32, CPU).decoder
    assert [way.name for way in lab.ways(decoder)] == ["gather", STAND_IN, f"{STAND_IN}, graphs"]


def test_the_table_counts_tests_and_shows_failures():
    results = [
        Result("tests", "test_a", 1.0, "s"),
        Result("tests", "test_b", 1.0, "s"),
        Result("tests", "test_c", 0.0, "s", ok=None, note="no CUDA device"),
        Result("tests", "test_d", 1.0, "s", ok=False, note="assert 1 == 2"),
        Result("decode", "16 at once", 1234.5, "tokens/s", "varlen, graphs"),
    ]
    assert list(table(results)) == [
        "2 tests passed",
        "1 tests left out: no CUDA device",
        "tests   test_d      1 s                             FAILED: assert 1 == 2",
        "decode  16 at once  1,234 tokens/s  varlen, graphs",
    ]


# --- wheels ---


def test_packages_that_neither_machine_nor_folder_has_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(wheels, "missing", lambda: ["msgspec", "llguidance"])
    with pytest.raises(wheels.WheelError, match="missing: msgspec, llguidance, and no --wheels DIR"):
        wheels.install(None, tmp_path)
    (tmp_path / "msgspec-0.22.0-cp312-cp312-manylinux_2_17_x86_64.whl").touch()
    with pytest.raises(wheels.WheelError, match=r"missing: llguidance, and .* has no wheel of it"):
        wheels.install(tmp_path, tmp_path)


def test_only_what_is_missing_is_installed_and_from_no_index(tmp_path, monkeypatch):
    commands: list[list[str]] = []
    monkeypatch.setattr(wheels, "_pip", commands.append)
    wheels.install(None, tmp_path)
    assert commands == []
    monkeypatch.setattr(wheels, "missing", lambda: ["msgspec"])
    (tmp_path / "msgspec-0.22.0-cp312-cp312-manylinux_2_17_x86_64.whl").touch()
    wheels.install(tmp_path, tmp_path / "site")
    (command,) = commands
    assert command[:3] == ["install", "--no-index", "--no-deps"]
    assert command[-1] == "msgspec"


def test_the_wheels_are_of_the_versions_that_the_project_pins():
    assert [wheels.pinned(name).partition("==")[0] for name in wheels.NEEDS] == list(wheels.NEEDS)
