"""The group `dense`: a model of Qwen3's shape, in our own decoder, and where its steps' time goes."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench import command
from bench.budget import Budget
from bench.engine import measures
from bench.engine.extent import FULL, QUICK, SMOKE, Extent
from bench.engine.models import LARGE, LEAST, SMALL, Sides, both, random_weights
from neuron.models.tiny import WEIGHTS_DIR

FIGURES = (
    "decode_1_over_generate",
    "total_16_over_static",
    "total_16_over_generate_batch",
    "ttft_warm_over_cold",
    "gap_p99_over_p50",
    "matmul_fraction",
    "bandwidth_fraction",
    "overhead_us_per_step",
)
# A turn of generate_batch takes so many times one of the engine's, as measured on CPUs; there are two turns.
BATCH_EXPECTED = 2 * 15


class Kind(NamedTuple):
    name: str
    path: Path
    dtype: torch.dtype
    extent: Extent


def measure(run: command.Run) -> dict[str, Any]:
    device = run.options.device
    runs: dict[str, dict[str, Any]] = defaultdict(dict)

    def note(name: str, figures: dict[str, Any]) -> None:
        runs[name] |= figures
        run.say(f"{name}: {figures}")

    with tempfile.TemporaryDirectory() as folder:
        kinds, large = _kinds(run, Path(folder))
        for kind in kinds:
            note(kind.name, _speeds(run.budget, both(kind.path, kind.dtype, device), kind.extent))
        steps = run.pick(FULL, QUICK, SMOKE).steps
        note("large", _decode_step(run.budget, both(large, torch.bfloat16, device), steps))
        # Last: its cache takes most of the memory, and whatever touches that next waits for the machine.
        for kind in kinds:
            note(kind.name, _generate_batch(run.budget, kind, runs[kind.name], device))
    measured = runs["bfloat16"] | runs["large"]
    figures = {key: measured.get(key) for key in FIGURES}
    return figures | {"runs": runs}


def _kinds(run: command.Run, folder: Path) -> tuple[list[Kind], Path]:
    """The kinds of weights to measure, and the weights that are larger than caches."""
    path = random_weights(folder / "small", run.pick(SMALL, SMALL, LEAST))
    large = random_weights(folder / "large", run.pick(LARGE, LARGE, LEAST), torch.bfloat16)
    kinds = [Kind("bfloat16", path, torch.bfloat16, run.pick(FULL, QUICK, SMOKE))]
    if run.size is command.Size.FULL:
        kinds.append(Kind("float32", path, torch.float32, FULL))
        kinds.append(Kind("helexa-tiny", WEIGHTS_DIR, torch.bfloat16, QUICK))
    return kinds, large


def _speeds(budget: Budget, sides: Sides, extent: Extent) -> dict[str, Any]:
    new, repeats, rounds, prefix = extent[:4]
    one = measures.over_generate(budget.share(0.15), sides, 1, new, repeats)
    sixteen = measures.over_generate(budget.share(0.25), sides, measures.BATCH, new, repeats)
    ttft = measures.ttft_warm_over_cold(budget.share(0.1), sides, prefix, min(rounds, 3))
    gaps = [
        measures.gap_p99_over_p50(sides, prefix) for _ in budget.share(0.1).rounds(rounds, "gaps of streams")
    ]
    return {
        "decode_1_over_generate": one["ratio"],
        "total_16_over_static": sixteen["ratio"],
        "ttft_warm_over_cold": ttft,
        "gap_p99_over_p50": sorted(gaps)[len(gaps) // 2],
        "overhead_us_per_step": measures.overhead_us_per_step(sides, min(new, 24)),
        "tokens_per_s": {"one": one, "sixteen": sixteen},
    }


def _decode_step(budget: Budget, sides: Sides, steps: int) -> dict[str, Any]:
    if not budget.allows("a decode step's products", 5.0 if steps > SMOKE.steps else 0.0):
        return {}
    return measures.decode_step(budget.share(0.15), sides, steps)


def _generate_batch(
    budget: Budget, kind: Kind, measured: dict[str, Any], device: torch.device
) -> dict[str, Any]:
    ours_s = measures.BATCH * kind.extent.new / measured["tokens_per_s"]["sixteen"]["ours"]
    if not budget.allows(f"generate_batch, {kind.name}", BATCH_EXPECTED * ours_s):
        return {}
    sides = both(kind.path, kind.dtype, device)
    new, repeats, blocks = kind.extent.new, kind.extent.repeats, kind.extent.blocks
    ratio = measures.over_generate_batch(budget, sides, new, repeats, blocks=blocks)
    return {"total_16_over_generate_batch": ratio}
