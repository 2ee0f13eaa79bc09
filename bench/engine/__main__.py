"""The engine beside transformers, same weights, same threads: python -m bench.engine [--device cuda:0]

Ratios are of runs that alternate, the best of each side: on a shared machine read the ratios, not the speeds.
`generate` gets what suits it: prompts of one length, no padding, no end before the last token. The first
eight keys are those of bfloat16; what else was measured is in `runs`.

    decode_1_over_generate         tokens a second of one request, over `generate`
    total_16_over_static           of 16 requests, over `generate` of a batch of 16
    total_16_over_generate_batch   of 16 requests, over transformers' continuous batching
    ttft_warm_over_cold            time to a first token behind a cached prefix of 2000 tokens, over a new one
    gap_p99_over_p50               gaps of 8 streams while a long prompt comes in, over their median gap alone
    matmul_fraction                a decode step's matrix products, as torch has them, over the step's time
    bandwidth_fraction             bytes of weights over the step's time, over the memory's bandwidth
    overhead_us_per_step           of a decode step of 16 requests, what is not the device's
    runs                           everything, by kind of weights

Options and the other keys of the result are those of `bench.command`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in neuron's workers; read when torch is imported

import torch
import transformers

from bench import command
from bench.budget import Budget
from bench.engine import measures
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


class Extent(NamedTuple):
    """How much of each thing is done."""

    new: int  # tokens a request
    repeats: int
    rounds: int  # of latencies
    prefix: int  # tokens
    steps: int  # of decoding, against their products
    blocks: int | None = None  # of generate_batch's cache; None: as many as it finds memory for


FULL = Extent(new=64, repeats=4, rounds=5, prefix=2000, steps=64)
QUICK = Extent(new=16, repeats=2, rounds=1, prefix=2000, steps=32)
SMOKE = Extent(new=2, repeats=1, rounds=1, prefix=1200, steps=2, blocks=32)


class Kind(NamedTuple):
    name: str
    path: Path
    dtype: torch.dtype
    extent: Extent


def measure(run: command.Run) -> dict[str, Any]:
    device = run.options.device
    torch.set_num_threads(run.options.threads)
    torch.set_grad_enabled(False)
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
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
    return figures | {"runs": runs, "machine": _described(run.options)}


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


def _described(options: argparse.Namespace) -> dict[str, Any]:
    is_cuda = options.device.type == "cuda"
    name = torch.cuda.get_device_name(options.device) if is_cuda else torch.backends.cpu.get_cpu_capability()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return versions | {"threads": options.threads, "device": name}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu or cuda:N")


if __name__ == "__main__":
    command.run("engine", __doc__, measure, add_options=add_options)
