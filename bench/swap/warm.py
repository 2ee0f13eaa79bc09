"""Models that wake, come from disk, and take turns on a device that holds one of them."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from bench import command
from bench.budget import Budget
from bench.engine.gguf_file import write_gguf
from bench.engine.llama import LLAMA, llama_process
from bench.engine.loads import HUGE, read_s
from bench.engine.models import LARGE, LEAST, random_model
from bench.engine.serving import prompt
from bench.swap.node import Node, model_directory, node, weights_of

FIGURES = ("wake_over_copy", "cold_over_read", "swap_ms_ab")
DTYPE = torch.bfloat16
PROMPT_TOKENS = 16


class Extent(NamedTuple):
    """How much is done: turns of swaps, and of loads from disk."""

    turns: int
    loads: int


FULL, QUICK, SMOKE = Extent(30, 8), Extent(12, 4), Extent(2, 1)


async def measure(run: command.Run, folder: Path) -> dict[str, Any]:
    extent = run.pick(FULL, QUICK, SMOKE)
    shape = run.pick(LARGE, LARGE, LEAST)
    a, b = (model_directory(folder / name, shape, DTYPE) for name in ("a", "b"))
    large = model_directory(folder / "large", run.pick(HUGE, HUGE, LEAST), DTYPE)
    async with node(run.options.device, threads=run.options.threads, kv_mb=64) as here:
        runs = {
            "wake": await _wake(here, a, extent, run.budget.share(0.2)),
            "cold": await _cold(here, large, extent, run.budget.share(0.3)),
            "swap": await _swap(here, (a, b), extent, run.budget.share(0.2)),
        }
    run.say(str(runs))
    swap_s = runs["swap"]["p50_s"]
    llama_s = runs["swap"]["llama_s"] = _llama(run, folder, shape, extent)
    return {
        "wake_over_copy": runs["wake"]["wake_s"] / (runs["wake"]["copy_s"] + runs["wake"]["prefill_s"]),
        "cold_over_read": runs["cold"]["load_s"] / runs["cold"]["read_s"],
        "swap_ms_ab": swap_s / llama_s if llama_s else None,
        "runs": runs,
    }


async def _wake(here: Node, path: Path, extent: Extent, budget: Budget) -> dict[str, float]:
    """From asleep to the first token; copying as many bytes; a prompt of a model that is awake."""
    await here.load(path)
    await here.first_token_s(path, _prompt(-1))
    copy = _copying(weights_of(path).stat().st_size)
    wakes, copies, prefills = [], [], []
    for turn in budget.rounds(extent.turns, "wakes"):
        prefills.append(await here.first_token_s(path, _prompt(2 * turn)))
        copies.append(copy())
        await here.put_to_sleep(path)
        wakes.append(await _timed(lambda turn=turn: _answer(here, path, 2 * turn + 1)))
    await here.put_to_sleep(path)
    return {"wake_s": median(wakes), "copy_s": median(copies), "prefill_s": median(prefills)}


async def _cold(here: Node, path: Path, extent: Extent, budget: Budget) -> dict[str, Any]:
    """From a file that no memory holds to the first token; reading the file once."""
    file = weights_of(path)
    loads, reads, is_cold = [], [], True
    for turn in budget.rounds(extent.loads, "loads from disk"):
        is_cold &= _forget(file)
        reads.append(read_s(file))
        is_cold &= _forget(file)
        loads.append(await _timed(lambda turn=turn: _answer(here, path, turn)))
        await here.unload(path)
    return {"load_s": median(loads), "read_s": median(reads), "is_cold": is_cold}


async def _swap(here: Node, pair: tuple[Path, Path], extent: Extent, budget: Budget) -> dict[str, float]:
    """From a request to its first token, each for the model that the request before was not for."""
    for path in pair:
        await here.load(path)
        await here.put_to_sleep(path)
    await here.load(pair[1])
    seconds = []
    for turn in budget.rounds(extent.turns, "swaps"):
        path, other = pair[turn % 2], pair[1 - turn % 2]
        seconds.append(await _timed(lambda o=other, p=path, t=turn: _swapped(here, o, p, t)))
    return {"p50_s": median(seconds)}


async def _swapped(here: Node, other: Path, path: Path, turn: int) -> None:
    await here.put_to_sleep(other)
    await _answer(here, path, turn)


async def _answer(here: Node, path: Path, seed: int) -> None:
    await here.load(path)
    await here.first_token_s(path, _prompt(seed))


def _llama(run: command.Run, folder: Path, shape: dict[str, int], extent: Extent) -> float | None:
    """The seconds of llama.cpp from the request to the first token, its model in the page cache."""
    if not run.has(LLAMA.name):
        return None
    file = write_gguf(folder / "model.gguf", random_model(shape), "bf16")
    with llama_process(file, run.options.threads) as llama:
        rounds = run.budget.share(0.2).rounds(extent.turns, "swaps of llama.cpp")
        return median([llama.swap(_prompt(turn)) for turn in rounds])


async def _timed(work: Callable[[], Awaitable[None]]) -> float:
    started = time.perf_counter()
    await work()
    return time.perf_counter() - started


def _copying(num_bytes: int) -> Callable[[], float]:
    source, target = (torch.ones(num_bytes, dtype=torch.uint8) for _ in range(2))

    def copy() -> float:
        started = time.perf_counter()
        target.copy_(source)
        return time.perf_counter() - started

    return copy


def _forget(file: Path) -> bool:
    """Have the system forget what it has read of a file; return whether it does."""
    if not hasattr(os, "posix_fadvise"):
        return False
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    return True


def _prompt(seed: int) -> list[int]:
    return prompt(seed, PROMPT_TOKENS)
