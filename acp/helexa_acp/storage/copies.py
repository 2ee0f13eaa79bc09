"""Copies of files as they were before a session changed them, each under the digest of its bytes."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

_NAME = re.compile(r"[0-9a-f]{64}")


class LostCopyError(Exception):
    """The copy does not exist any more, or is damaged."""


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class FileCopies:
    """The copies of one session, in a directory that is created with the first of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, data: bytes) -> str:
        """Keep a copy, and return its name. Raises OSError."""
        name = digest(data)
        path = self._folder / name
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            part = path.with_suffix(".part")
            part.write_bytes(data)
            part.replace(path)
        return name

    def read(self, name: str) -> bytes:
        """Return the bytes of a copy. Raises LostCopyError."""
        try:
            data = (self._folder / name).read_bytes() if _NAME.fullmatch(name) else b""
        except OSError as error:
            raise LostCopyError(f"the copy from before the change cannot be read: {error}") from error
        if digest(data) != name:
            raise LostCopyError("the copy from before the change is damaged")
        return data

    def copy_to(self, other: FileCopies) -> None:
        for path in self._folder.glob("*"):
            other.keep(path.read_bytes())

    def delete(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
