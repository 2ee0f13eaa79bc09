"""The bytes a second that a loop in C reads from memory, with every thread at a part of its own."""

from __future__ import annotations

import ctypes
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

SOURCE = """\
#include <stddef.h>
#include <stdint.h>

uint64_t read_words(const uint64_t *word, size_t count)
{
    uint64_t sums[32] = {0}, sum = 0;
    for (size_t at = 0; at + 32 <= count; at += 32)
        for (int lane = 0; lane < 32; lane++)
            sums[lane] ^= word[at + lane];
    for (int lane = 0; lane < 32; lane++)
        sum ^= sums[lane];
    return sum;
}
"""
BLOCK_BYTES = 256 << 20  # more than any cache holds


class Memory:
    """Memory to read, and the loop, compiled in `folder`. Raises FileNotFoundError without a C compiler."""

    def __init__(self, folder: Path, threads: int) -> None:
        source, library = folder / "read.c", folder / "read.so"
        source.write_text(SOURCE)
        options = ["-O3", "-march=native", "-shared", "-fPIC"]
        subprocess.run(["cc", *options, "-o", str(library), str(source)], check=True)
        self._loop = ctypes.CDLL(str(library)).read_words
        self._loop.argtypes = ctypes.c_void_p, ctypes.c_size_t
        self._parts = np.array_split(np.ones(BLOCK_BYTES // 8, np.uint64), threads)
        self._pool = ThreadPoolExecutor(threads)

    @property
    def num_bytes(self) -> int:
        return sum(part.nbytes for part in self._parts)

    def read(self) -> float:
        """Read all of it once, and return the seconds that this takes."""
        started = time.perf_counter()
        list(self._pool.map(lambda part: self._loop(part.ctypes.data, len(part)), self._parts))
        return time.perf_counter() - started
