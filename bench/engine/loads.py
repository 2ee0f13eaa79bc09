"""How long a load takes beside reading its file, and what memory it takes; each in a process of its own."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from bench import command
from bench.engine.models import LARGE, LEAST, decoder_of, random_weights

FIGURES = (
    "load_s_over_read_mapped",
    "load_s_over_read_in_situ",
    "peak_over_size_mapped",
    "peak_over_size_in_situ",
)
# A thousand million parameters: 2 GB in bfloat16.
HUGE = LARGE | {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}
BLOCK_BYTES = 16 << 20


def measure(run: command.Run, folder: Path) -> dict[str, Any]:
    """The figures of a load that maps its file. The file is in the page cache."""
    path = random_weights(folder / "loads", run.pick(HUGE, HUGE, LEAST), torch.bfloat16)
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawned) as process:
        mapped = process.submit(load, path, run.options.threads).result()
    return {
        "load_s_over_read_mapped": mapped["load_s"] / mapped["read_s"],
        "peak_over_size_mapped": mapped["peak_bytes"] / mapped["size"],
        "mapped": mapped,
    }


def load(path: Path, threads: int) -> dict[str, float]:
    """Read a checkpoint's weights as a file, load it, and return the seconds and bytes of both."""
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    (file,) = path.glob("*.safetensors")
    read_s = min(_read(file) for _ in range(2))
    before = _reset_peak()
    started = time.perf_counter()
    decoder = decoder_of(path, torch.device("cpu"))
    load_s = time.perf_counter() - started
    peak = _status_bytes("VmHWM") - before
    del decoder
    return {"load_s": load_s, "read_s": read_s, "peak_bytes": peak, "size": file.stat().st_size}


def _read(file: Path) -> float:
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
