"""Text files, read and written through the client if it can, so that unsaved buffers count and edits can be
reviewed.

A file that has changed on disk since the first command began is read from disk, because the editor's buffer
may be older. A write goes either through the client or to disk, never to both.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from helexa_acp.rpc.framing import RpcError
from helexa_acp.tools.errors import ToolError
from helexa_acp.v1.client import Client

MAX_FILE_BYTES = 10 * 1024 * 1024


class Files:
    """The files of a session."""

    def __init__(self, client: Client, session_id: str) -> None:
        self._client = client
        self._session_id = session_id
        self._command_began_ns: int | None = None

    def command_begins(self) -> None:
        """Note that from now on a command or a server may change files without the editor."""
        if self._command_began_ns is None:
            self._command_began_ns = time.time_ns()

    async def read(self, path: Path) -> str:
        """Return the text of a file. Raises ToolError."""
        if not self._client.can_read or self._is_fresher_on_disk(path):
            return await self._read_disk(path)
        try:
            return await self._client.read_text(self._session_id, str(path))
        except RpcError as error:
            try:
                return await self._read_disk(path)
            except ToolError as local:
                raise ToolError(f"{local}; the editor says: {error}") from None

    async def read_or_none(self, path: Path) -> str | None:
        """Return the text of a file, or None if it does not exist. Raises ToolError."""
        return await self.read(path) if _exists(path) else None

    async def write(self, path: Path, text: str) -> None:
        """Write a file and the directories above it. Raises ToolError."""
        if _is_directory(path):
            raise ToolError(f"{path} is a directory")
        await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
        try:
            if self._client.can_write:
                await self._client.write_text(self._session_id, str(path), text)
            else:
                await asyncio.to_thread(_write_text, path, text)
        except (RpcError, OSError, ValueError) as error:
            raise ToolError(f"cannot write {path}: {error}") from error

    def _is_fresher_on_disk(self, path: Path) -> bool:
        if self._command_began_ns is None:
            return False
        try:
            return path.stat().st_mtime_ns >= self._command_began_ns
        except OSError:
            return False

    async def _read_disk(self, path: Path) -> str:
        return await asyncio.to_thread(_read_text, path)


def read_bytes(path: Path, limit_bytes: int) -> bytes:
    """Return the content of a regular file; a read of anything else might block. Raises ToolError."""
    try:
        if not path.is_file():
            raise ToolError(f"{path} is not a file")
        size = path.stat().st_size
        if size > limit_bytes:
            raise ToolError(f"{path} has {size} bytes; at most {limit_bytes} are read")
        return path.read_bytes()
    except OSError as error:
        raise ToolError(f"cannot read {path}: {error.strerror or error}") from error


def _read_text(path: Path) -> str:
    """Raises ToolError."""
    data = read_bytes(path, MAX_FILE_BYTES)
    if b"\0" in data[:8192]:
        raise ToolError(f"{path} is not a text file")
    return data.decode("utf-8", "replace")


def _exists(path: Path) -> bool:
    return os.path.lexists(path)


def _is_directory(path: Path) -> bool:
    return path.is_dir()


def _write_text(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
