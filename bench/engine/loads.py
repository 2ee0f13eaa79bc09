"""How long a load takes beside reading its file, and what memory it takes; each in a process of its own."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from bench import command
from bench.engine.models import LARGE, LEAST, checkpoint_of, decoder_of, random_weights
from neuron.device.memory import exempt_from_collection
from neuron.models.decoder import model_dtype
from neuron.models.memory_estimate import weight_bytes
from neuron.models.packed.folder import PackedFolder

CPU = torch.device("cpu")
WAYS = {"mapped": None, "in_situ": "q8_0", "packed": "q8_0"}  # what a load is asked to quantize to
KEYS = ("load_s_over_read", "peak_over_size")
FIGURES = tuple(f"{key}_{way}" for key in KEYS for way in WAYS)
# A thousand million parameters: 2 GB in bfloat16.
HUGE = LARGE | {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}
BLOCK_BYTES = 16 << 20
TURNS = 3


def measure(run: command.Run, folder: Path) -> dict[str, Any]:
    """The figures of loads on one core of 2 GB of weights in the page cache."""
    path = random_weights(folder / "loads", run.pick(HUGE, HUGE, LEAST), torch.bfloat16)
    least = random_weights(folder / "least", LEAST, torch.bfloat16)
    packed = {way: PackedFolder(folder / way) if way == "packed" else None for way in WAYS}
    measured = {way: _apart(load, path, least, quant, packed[way]) for way, quant in WAYS.items()}
    figures = {f"{key}_{way}": found[key] for way, found in measured.items() for key in KEYS}
    return figures | measured


def _apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """The result of `work` in a process of its own."""
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawned) as process:
        return process.submit(work, *arguments).result()


def load(path: Path, least: Path, quant: str | None, packed: PackedFolder | None) -> dict[str, float]:
    """What a load takes, and what reading the file once does, each its best of some turns.

    What is `packed` is there before. The `least` model's load imports and starts what would count with the
    first; what lives then is exempt from garbage collection, as in a worker. The first load also waits for
    memory of a virtual machine's host.
    """
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    decoder_of(least, CPU, quant=quant, packed_folder=packed)
    if packed:
        checkpoint_of(path, quant, packed)
    exempt_from_collection()
    (file,) = path.glob("*.safetensors")
    before = _reset_peak()
    first_s = load_s(path, quant, packed)
    peak_bytes = _status_bytes("VmHWM") - before
    turns = [(read_s(file), load_s(path, quant, packed)) for _ in range(TURNS)]
    once_s, best_s = map(min, zip(*turns, strict=True))
    return {
        "load_s_over_read": best_s / once_s,
        "peak_over_size": peak_bytes / _size(path, quant),
        "load_s": best_s,
        "first_load_s": first_s,
        "read_s": once_s,
        "peak_bytes": peak_bytes,
    }


def load_s(path: Path, quant: str | None, packed: PackedFolder | None) -> float:
    """The seconds that a load takes."""
    started = time.perf_counter()
    decoder_of(path, CPU, quant=quant, packed_folder=packed)
    return time.perf_counter() - started


def _size(path: Path, quant: str | None) -> int:
    checkpoint = checkpoint_of(path, quant)
    return weight_bytes(checkpoint, model_dtype(checkpoint))


def read_s(file: Path) -> float:
    """The seconds that it takes to read a file once."""
    block = bytearray(BLOCK_BYTES)
    started = time.perf_counter()
    with file.open("rb", buffering=0) as stream:
        while stream.readinto(block):
            pass
    return time.perf_counter() - started


def _reset_peak() -> int:
    """Forget the process's highest memory so far, and return what it has now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status_bytes("VmRSS")


def _status_bytes(key: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{key}:")[2].split()[0]) << 10
