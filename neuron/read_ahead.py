"""Reads files that will soon be needed into the system's page cache, in the order in which they will be.

The system is told which parts it will want, by several readers: of a disk or a file server that answers more
requests at once, each gets some. A reader waits for each part, so that whoever needs another meanwhile does
not queue behind all of them. None of it is copied here, and parts that are cached already cost nothing.

A load looks at norms and biases of all layers before anything is computed, and the first token goes through
the layers one after the other, while files have them in the order of their names: 1, 10, 11, 2. So the first
token is there soon after the last layer is.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import psutil

from neuron.config import DeviceSettings
from neuron.models.checkpoint import ModelLoadError, SafetensorsEntry, read_header
from neuron.models.gguf.split_files import part_names
from neuron.models.packed.folder import PackedFolder

READERS = 4
_PIECE = 8 << 20  # bytes that a reader asks for at a time
_SHARE = 0.5  # of the memory that is available: the rest is left to others
_NUMBER = re.compile(r"\.(\d+)\.")
_EMBEDDING = re.compile(r"embed|wte|wpe")


class _Piece(NamedTuple):
    file: Path
    start: int
    num_bytes: int

    @property
    def end(self) -> int:
        return self.start + self.num_bytes


class ReadingAhead:
    """Reads what loads will need, in threads that nobody waits for."""

    def __init__(self, device: DeviceSettings) -> None:
        self._packed = device.packed_dir and PackedFolder(device.packed_dir)
        self._tasks: set[asyncio.Task[int]] = set()

    def start(self, path: Path, quant: str | None) -> None:
        """Read a model's weights, or what an earlier load has computed of them."""
        task = asyncio.create_task(asyncio.to_thread(self._read, path, quant), name=f"read ahead {path}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _read(self, path: Path, quant: str | None) -> int:
        files = self._packed.known_files(path, quant) if self._packed else []
        return sum(map(read_ahead, files or [path]))


def read_ahead(path: Path) -> int:
    """Return how many bytes of a model's weights were read: a directory's, or those of a GGUF file.

    They are read as far as they fit into memory. What cannot be read is left to the load.
    """
    pieces = list(_cut(_joined(_spans(path)), int(psutil.virtual_memory().available * _SHARE)))
    if not hasattr(os, "posix_fadvise"):
        return 0
    with ThreadPoolExecutor(READERS, thread_name_prefix="read-ahead") as readers:
        return sum(readers.map(_read, pieces))


def _spans(path: Path) -> list[_Piece]:
    """Return what the files hold, in the order in which it is needed."""
    if not path.is_dir():
        files = [path.with_name(name) for name in part_names(path.name)]
        return [_Piece(file, 0, file.stat().st_size) for file in files if file.is_file()]
    ranked: list[tuple[float, _Piece]] = []
    for file in sorted(path.glob("*.safetensors")):
        ranked += _ranked(file)
    return [piece for _, piece in sorted(ranked)]


def _ranked(file: Path) -> list[tuple[float, _Piece]]:
    """Return the tensors of a file, each with its rank; all of one that cannot be understood."""
    try:
        entries = read_header(file)
    except ModelLoadError:
        return [(0, _Piece(file, 0, file.stat().st_size))]
    found = [
        (_rank(name, entry), _Piece(file, entry.start, entry.num_bytes)) for name, entry in entries.items()
    ]
    return [(-2, _Piece(file, 0, min((piece.start for _, piece in found), default=0))), *found]


def _rank(name: str, entry: SafetensorsEntry) -> float:
    """Return a number by which tensors are needed: norms and biases, embeddings, layers, and the rest."""
    if len(entry.shape) == 1:
        return -2
    if layer := _NUMBER.search(name):
        return int(layer[1])
    return -1 if _EMBEDDING.search(name) else math.inf


def _joined(spans: Iterable[_Piece]) -> Iterator[_Piece]:
    """Yield pieces, where neighbours of a file that follow each other are one."""
    last: _Piece | None = None
    for span in spans:
        if last and (last.file, last.end) == (span.file, span.start):
            last = last._replace(num_bytes=last.num_bytes + span.num_bytes)
            continue
        if last:
            yield last
        last = span
    if last:
        yield last


def _cut(pieces: Iterable[_Piece], most: int) -> Iterator[_Piece]:
    """Yield pieces of at most `_PIECE` bytes, and of `most` bytes together."""
    for piece in pieces:
        size = min(piece.num_bytes, most)
        most -= size
        for start in range(0, size, _PIECE):
            yield _Piece(piece.file, piece.start + start, min(_PIECE, size - start))


def _read(piece: _Piece) -> int:
    """Return how many bytes of a piece are in the page cache once its last one is."""
    try:
        descriptor = os.open(piece.file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        os.posix_fadvise(descriptor, piece.start, piece.num_bytes, os.POSIX_FADV_WILLNEED)
        os.pread(descriptor, 1, piece.end - 1)
    except OSError:
        return 0
    finally:
        os.close(descriptor)
    return piece.num_bytes
