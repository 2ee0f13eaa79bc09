"""What a model's files hold, as one name: read once, and remembered while nothing changes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from pathlib import Path

from neuron.models.packed.writing import written

DIGEST = ".digest"  # how names of files that remember one end
_PIECE = 16 << 20  # bytes that a thread hashes at a time


def digest_of(model: Path, memory: Path, pause: Callable[[], None] = lambda: None) -> str:
    """Return a digest of the weights and settings in a model's directory; `memory` is a folder for it.

    `pause` is called between pieces that are read. Raises OSError.
    """
    return _joined(_recall(memory, file) or _learn(memory, file, pause) for file in _files(model))


def known_digest(model: Path, memory: Path) -> str | None:
    """Return the digest of a model's directory if no file must be read for it, else None. Raises OSError."""
    digests = [_recall(memory, file) for file in _files(model)]
    return _joined(filter(None, digests)) if all(digests) else None


def _files(model: Path) -> list[Path]:
    return sorted(file for file in model.iterdir() if file.suffix in {".safetensors", ".json"})


def _joined(digests: Iterable[str]) -> str:
    return sha256("".join(digests).encode()).hexdigest()


def _recall(memory: Path, file: Path) -> str | None:
    try:
        return _place(memory, file).read_text()
    except FileNotFoundError:
        return None


def _learn(memory: Path, file: Path, pause: Callable[[], None]) -> str:
    place, digest = _place(memory, file), _read(file, pause)
    if _place(memory, file) != place:
        raise OSError(f"{file}: was written to while it was read")
    with written(place) as stream:
        stream.write(digest.encode())
    return digest


def _place(memory: Path, file: Path) -> Path:
    """Return where a file's digest is remembered, which changes whenever the file does."""
    found = file.stat()
    identity = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    return memory / (_joined(map(str, (file.resolve(), *identity))) + DIGEST)


def _read(file: Path, pause: Callable[[], None]) -> str:
    """Return the digest of the digests of a file's pieces, each taken by any core."""
    pieces = []
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with ThreadPoolExecutor(os.cpu_count(), "digests") as threads:
            starts = range(0, os.fstat(descriptor).st_size, _PIECE)
            for piece in threads.map(partial(_piece, descriptor), starts):
                pieces.append(piece)
                pause()
    finally:
        os.close(descriptor)
    return _joined(pieces)


def _piece(descriptor: int, start: int) -> str:
    return sha256(os.pread(descriptor, _PIECE, start)).hexdigest()
