"""What `bench.engine` measures, on the device: the engine beside transformers, small weights from disk."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from bench.engine import measures
from bench.engine.extent import QUICK, SMOKE
from bench.engine.models import LARGE, LEAST, SMALL, Sides, both, random_weights
from bench.gpu.case import Case, LeftOutError
from bench.gpu.lab import Lab


def cases(_: str, lab: Lab) -> Iterator[Case]:
    small, large = (LEAST, LEAST) if lab.is_smoke else (SMALL, LARGE)
    with tempfile.TemporaryDirectory(prefix="cx-") as folder:
        sides = _sides(lab, Path(folder) / "small", small)
        yield from _of(_ratios(lab, sides))
        yield from _of(_shares(lab, _sides(lab, Path(folder) / "large", large)))
        # Last: its cache takes most of the memory.
        yield from _of(_batch(lab, sides))


def _sides(lab: Lab, path: Path, shape: dict[str, int]) -> Sides:
    return both(random_weights(path, shape, lab.dtype), lab.dtype, torch.device(lab.device))


def _of(measures_by_name: dict[str, Callable[[], float]]) -> Iterator[Case]:
    for name, measure in measures_by_name.items():
        yield Case(name, "", "", measure)


def _ratios(lab: Lab, sides: Sides) -> dict[str, Callable[[], float]]:
    extent = SMOKE if lab.is_smoke else QUICK

    def over_generate(requests: int) -> float:
        return measures.over_generate(lab.budget, sides, requests, extent.new, extent.repeats)["ratio"]

    return {
        "decode_1_over_generate": lambda: over_generate(1),
        "total_16_over_static": lambda: over_generate(measures.BATCH),
        "ttft_warm_over_cold": lambda: measures.ttft_warm_over_cold(lab.budget, sides, extent.prefix, 1),
        "gap_p99_over_p50": lambda: measures.gap_p99_over_p50(sides, extent.prefix),
        "overhead_us_per_step": lambda: measures.overhead_us_per_step(sides, extent.new),
    }


def _shares(lab: Lab, sides: Sides) -> dict[str, Callable[[], float]]:
    extent = SMOKE if lab.is_smoke else QUICK
    found: dict[str, float] = {}

    def matmul_fraction() -> float:
        found.update(measures.decode_step(lab.budget, sides, extent.steps))
        return found["matmul_fraction"]

    return {"matmul_fraction": matmul_fraction, "bandwidth_fraction": lambda: found["bandwidth_fraction"]}


def _batch(lab: Lab, sides: Sides) -> dict[str, Callable[[], float]]:
    extent = SMOKE if lab.is_smoke else QUICK

    def over_generate_batch() -> float:
        if not lab.is_cuda and importlib.util.find_spec("psutil") is None:
            raise LeftOutError("on a CPU transformers needs psutil for it")
        return measures.over_generate_batch(lab.budget, sides, extent.new, 1, blocks=extent.blocks)

    return {"total_16_over_generate_batch": over_generate_batch}
