"""A model on two CPU devices of one thread each, beside the same on one device of two threads."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch

from bench import command
from bench.engine.models import LARGE, LEAST
from bench.engine.serving import prompt
from bench.swap.node import Node, model_directory, node
from neuron.pipe import Sampling, Submit, next_id

FIGURES = ("tp2_over_1", "tp_overhead_us")
SHAPE = LARGE | {"num_hidden_layers": 27}  # 373 million parameters


async def measure(run: command.Run, folder: Path) -> dict[str, Any]:
    path = model_directory(folder / "model", run.pick(SHAPE, SHAPE, LEAST), torch.float32)
    tokens = run.pick(64, 32, 8)
    cpu = torch.device("cpu", 0)
    speeds: dict[str, list[float]] = {"one": [], "two": []}
    overheads: list[float] = []
    async with node(cpu, threads=2) as one, node(cpu, threads=1, devices=2) as two:
        await one.load(path)
        await two.load(path, 2)
        for turn in run.budget.share(0.3).rounds(run.pick(7, 3, 1), "rounds"):
            asked = prompt(turn, 16)
            speeds["one"].append(await tokens_per_s(one, path.name, asked, tokens))
            speeds["two"].append(await tokens_per_s(two, path.name, asked, tokens, overheads))
    return {
        "tp2_over_1": max(speeds["two"]) / max(speeds["one"]),
        "tp_overhead_us": statistics.median(overheads),
        "runs": speeds | {"overhead_us": overheads},
    }


async def tokens_per_s(
    here: Node, name: str, asked: list[int], count: int, overheads: list[float] | None = None
) -> float:
    """The tokens of an answer over the seconds from its submission to its end; notes what plans took."""
    model = here.harness.local_model(name)
    started = time.perf_counter()
    generation = model.submit(Submit(next_id(), name, asked, count, Sampling(), []))
    read = 0
    while generation.end is None:
        read += len(await generation.read() or ())
        overhead_ns = here.harness.overhead_ns(name)
        if overheads is not None and overhead_ns is not None:
            overheads.append(overhead_ns / 1000)
    return read / (time.perf_counter() - started)
