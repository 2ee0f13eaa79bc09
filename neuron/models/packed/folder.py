"""The folder of packed files: what they are called, and how much room they may take."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neuron.models.packed.digests import DIGEST, digest_of, known_digest
from neuron.models.packed.writing import UNFINISHED

if TYPE_CHECKING:
    from neuron.models.tensor_parallel.sizes import Rank

MAX_PACKED_MB = 200_000  # unless it is set
PACKED = ".packed"
_VERSION = 1  # of a file's format and of how weights are computed: those of others are made again
_MAX_DIGESTS = 10_000
_ABANDONED_S = 86_400  # what nobody has written to for so long is left of a process that was killed


@dataclass(frozen=True, slots=True)
class PackedFolder:
    """Files of weights, each of one model's directory, of which those that were used last are kept."""

    path: Path
    max_bytes: int = MAX_PACKED_MB << 20

    def file(self, model: Path, quant: str | None, rank: Rank | None, pause: Callable[[], None]) -> Path:
        """Return where what is computed of a model is, or will be, and count it as used. Raises OSError."""
        self.path.mkdir(parents=True, exist_ok=True)
        part = f".{rank.index}-of-{rank.size}" if rank else ""
        digest = digest_of(model, self.path, pause)
        file = self.path / f"{_beginning(digest, quant)}{part}{PACKED}"
        if file.exists():
            os.utime(file, ns=(time.time_ns(), file.stat().st_mtime_ns))  # what maps it looks at that
        return file

    def known_files(self, model: Path, quant: str | None) -> list[Path]:
        """Return what there is of a model, of all ranks; nothing if its files would have to be read."""
        try:
            digest = known_digest(model, self.path)
        except OSError:
            return []
        return sorted(self.path.glob(f"{_beginning(digest, quant)}*{PACKED}")) if digest else []

    def make_room(self, num_bytes: int) -> None:
        """Delete what was used longest ago until another file fits. Raises OSError if it never will."""
        self._tidy()
        if num_bytes > self.max_bytes:
            raise OSError(f"{self.path}: {num_bytes >> 20} MiB are more than packed_mb")
        kept = _by_use(self.path.glob(f"*{PACKED}"))
        taken = sum(file.stat().st_size for file in kept)
        while kept and (taken + num_bytes > self.max_bytes or shutil.disk_usage(self.path).free < num_bytes):
            oldest = kept.pop(0)
            taken -= oldest.stat().st_size
            oldest.unlink(missing_ok=True)
        if shutil.disk_usage(self.path).free < num_bytes:
            raise OSError(f"{self.path}: {num_bytes >> 20} MiB do not fit on the disk")

    def _tidy(self) -> None:
        """Delete what processes that were killed have left, and digests that nobody can need."""
        old = time.time() - _ABANDONED_S
        abandoned = [draft for draft in self.path.glob(f"*{UNFINISHED}") if draft.stat().st_mtime < old]
        for file in (*abandoned, *_by_use(self.path.glob(f"*{DIGEST}"))[:-_MAX_DIGESTS]):
            file.unlink(missing_ok=True)


def _beginning(digest: str, quant: str | None) -> str:
    return f"{digest}.v{_VERSION}.{quant or 'stored'}"


def _by_use(files: Iterable[Path]) -> list[Path]:
    return sorted(files, key=lambda file: file.stat().st_atime_ns)
