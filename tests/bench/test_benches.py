"""Every benchmark runs: each in its smallest size, as a process, down to its last line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench.running import ROOT, documented, output

# Programs that benchmarks start.
PARTS = {
    "bench.engine.llama_child",
    "bench.gateway.load",
    "bench.gateway.mock",
    "bench.gpu.tests",
    "bench.gpu.worker",
    "bench.guided.walk",
    "bench.schemas.child",
    "bench.schemas.vendor",
    "bench.siege.strangers",
    "bench.translate.adapter",
}


def programs() -> set[str]:
    """The modules below bench/ that run when they are named to Python."""
    found = set()
    for path in (*ROOT.glob("bench/*.py"), *ROOT.glob("bench/*/*.py")):
        if '\nif __name__ == "__main__":' in path.read_text():
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.add(".".join(parts[:-1] if parts[-1] == "__main__" else parts))
    return found


def test_the_programs_that_benchmarks_start_are_there():
    assert programs() > PARTS


# Those run in tests/bench/test_gpu.py and tests/e2e/test_chaos.py.
ELSEWHERE = {"bench.gpu", "bench.chaos"}


@pytest.mark.parametrize("name", sorted(programs() - PARTS - ELSEWHERE))
def test_a_smoke_run_ends_in_the_documented_keys(name: str):
    *before, last = output(["-m", name, "--smoke", "--json"])
    result: dict[str, Any] = json.loads(last)
    assert not before
    assert (f"bench.{result['bench']}", result["size"]) == (name, "smoke")
    assert sorted(result) == sorted(documented("bench.command") + documented(name))


def test_a_result_is_shown_as_a_table_and_kept_in_a_file(tmp_path: Path):
    kept = tmp_path / "kept" / "result.json"
    shown = output(["-m", "bench.translate", "--smoke", "--out", str(kept)])
    result = json.loads(kept.read_text())
    assert {line.split()[0] for line in shown if not line.startswith(" ")} == set(result)
    assert result["missing"] == {"litellm": "not asked for"}
    assert result["cpu_over_litellm"] is None
