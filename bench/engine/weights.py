"""The group `weights`: the formats that weights are stored in, beside llama.cpp with the same weights.

The engine, llama.cpp and a loop that only reads memory take turns of a few steps, and the best turn of each
counts. Weights are larger than caches.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bench import command
from bench.budget import Budget
from bench.engine import loads
from bench.engine.bandwidth import Memory
from bench.engine.gguf_file import FORMATS, bytes_multiplied, write_gguf
from bench.engine.llama import LLAMA, llama_process
from bench.engine.measures import BATCH
from bench.engine.models import LARGE, LEAST, decoder_of, random_model, runner_of
from bench.engine.serving import Requests, prompt

KEYS = ("decode_1_over_llama", "total_16_over_llama", "prefill_512_over_llama")
FIGURES = (
    *(f"{key}_{name}" for key in KEYS for name in FORMATS),
    "bandwidth_fraction_f32",
    "bandwidth_fraction_q8_0",
    *loads.FIGURES,
)
PROMPT_TOKENS = 16  # of a request that is there to be continued


class Side(Protocol):
    """Who runs requests."""

    def start(self, prompts: list[list[int]]) -> float:
        """Run new prompts, and return the seconds until each has its first token."""

    def steps(self, count: int) -> float:
        """Return the seconds that so many decode steps of all requests take."""


class Extent(NamedTuple):
    """How much is done: turns, and in each so many decode steps, or a prompt of so many tokens."""

    turns: int
    steps: int
    prompt: int


FULL = Extent(turns=40, steps=16, prompt=512)
QUICK = Extent(turns=12, steps=8, prompt=512)
SMOKE = Extent(turns=1, steps=2, prompt=32)


def measure(run: command.Run) -> dict[str, Any]:
    runs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = _files(folder, run.pick(LARGE, LARGE, LEAST))
        memory = Memory(folder, run.options.threads)
        for kind, (file, num_bytes) in files.items():
            runs[kind] = _speeds(run, file, memory, num_bytes)
            run.say(f"{kind}: {runs[kind]}")
        runs["loads"] = loads.measure(run, folder)
        run.say(f"loads: {runs['loads']}")
    figures = {f"{key}_{kind}": runs[kind].get(key) for key in KEYS for kind in FORMATS}
    figures |= {f"bandwidth_fraction_{kind}": runs[kind]["bandwidth_fraction"] for kind in ("f32", "q8_0")}
    return figures | {key: runs["loads"][key] for key in loads.FIGURES} | {"runs": runs}


def _files(folder: Path, shape: dict[str, int]) -> dict[str, tuple[Path, int]]:
    """A file of each format, and the bytes of it that a decode step reads."""
    model = random_model(shape)
    return {
        kind: (write_gguf(folder / f"{kind}.gguf", model, kind), bytes_multiplied(model, kind))
        for kind in FORMATS
    }


def _speeds(run: command.Run, file: Path, memory: Memory, num_bytes: int) -> dict[str, Any]:
    """The speeds of both sides with the weights of a file."""
    budget, extent = run.budget.share(0.2), run.pick(FULL, QUICK, SMOKE)
    decoder = decoder_of(file, run.options.device)
    with ExitStack() as stack:
        sides: list[Side] = [Requests(runner_of(decoder), decoder.vocab_size)]
        if run.has(LLAMA.name):
            sides.append(stack.enter_context(llama_process(file, run.options.threads)))
        prefill_s = _prefill(budget.share(0.3), sides, extent)
        sixteen_s = _decode(budget.share(0.35), sides, BATCH, extent)
        *one_s, memory_s = _decode(budget, sides, 1, extent, memory.read)
    step_s = one_s[0] / extent.steps
    speeds = {
        "decode_1": [extent.steps / seconds for seconds in one_s],
        "total_16": [BATCH * extent.steps / seconds for seconds in sixteen_s],
        "prefill_512": [extent.prompt / seconds for seconds in prefill_s],
    }
    return {
        **{f"{key}_over_llama": ours / theirs for key, (ours, *rest) in speeds.items() for theirs in rest},
        "bandwidth_fraction": num_bytes / step_s / (memory.num_bytes / memory_s),
        "memory_gb_per_s": memory.num_bytes / memory_s / 1e9,
        "tokens_per_s": speeds,
    }


def _decode(
    budget: Budget, sides: list[Side], requests: int, extent: Extent, *others: Callable[[], float]
) -> list[float]:
    """The seconds that some decode steps take each side, and what `others` take between them, at best."""
    for side in sides:
        side.start([prompt(seed, PROMPT_TOKENS) for seed in range(requests)])
    ways = [*(partial(side.steps, extent.steps) for side in sides), *others]
    rounds = budget.rounds(extent.turns, f"steps of {requests}")
    return _best([[way() for way in ways] for _ in rounds])


def _prefill(budget: Budget, sides: list[Side], extent: Extent) -> list[float]:
    """The seconds that a prompt takes each side, at best. Each is new, or it would be cached."""
    for side in sides:
        side.start([prompt(-1, extent.prompt // 8)])
    rounds = budget.rounds(extent.turns, f"prompts of {extent.prompt}")
    return _best([[side.start([prompt(seed, extent.prompt)]) for side in sides] for seed in rounds])


def _best(turns: list[list[float]]) -> list[float]:
    return [min(times) for times in zip(*turns, strict=True)]
