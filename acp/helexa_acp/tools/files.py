"""Text files, read and written through the client if it can, so that unsaved buffers count and edits can be
reviewed.

A file that has changed on disk since the first command began is read from disk, because the editor's buffer
may be older. So is a file that is not in UTF-8, which the protocol cannot carry without loss. A write goes
either through the client or to disk, never to both.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from helexa_acp.rpc.framing import RpcError
from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.text_file import FileText, decode
from helexa_acp.v1.client import Client

MAX_FILE_BYTES = 10 * 1024 * 1024
MAX_CLIENT_BYTES = 64 * 1024 * 1024


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

    @property
    def commands_have_run(self) -> bool:
        return self._command_began_ns is not None

    async def read(self, path: Path) -> FileText:
        """Return the text of a file. Raises ToolError."""
        if not self._client.can_read or self._is_fresher_on_disk(path):
            return await self._read_disk(path)
        if not await asyncio.to_thread(_fits_the_protocol, path):
            return await self._read_disk(path)
        try:
            return FileText(await self._client.read_text(self._session_id, str(path)))
        except RpcError as error:
            try:
                return await self._read_disk(path)
            except ToolError as local:
                raise ToolError(f"{local}; the editor says: {error}") from None

    async def read_or_none(self, path: Path) -> FileText | None:
        """Return the text of a file, or None if it does not exist. Raises ToolError."""
        return await self.read(path) if _exists(path) else None

    async def write(self, path: Path, content: FileText) -> None:
        """Write a file and the directories above it. Raises ToolError."""
        if _is_directory(path):
            raise ToolError(f"{path} is a directory")
        data = content.data
        await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
        try:
            if self._client.can_write and content.encoding == "utf-8":
                await self._client.write_text(self._session_id, str(path), content.text)
            else:
                await asyncio.to_thread(path.write_bytes, data)
        except (RpcError, OSError, ValueError) as error:
            raise ToolError(f"cannot write {path}: {error}") from error

    async def copy_of(self, path: Path, content: FileText) -> bytes:
        """Return the bytes that restore a file with this content: those on disk, unless its buffer differs.

        Some editors read a text without its carriage returns; they alone are no difference.
        """
        disk = await asyncio.to_thread(_bytes_or_none, path)
        there = decode(disk) if disk is not None else None
        if disk is not None and there is not None and _lines(there.text) == _lines(content.text):
            return disk
        return content.data

    async def restore(self, path: Path, data: bytes | None) -> None:
        """Give a file these bytes again; None removes it. Raises ToolError, OSError."""
        if data is None:
            await asyncio.to_thread(path.unlink, missing_ok=True)
            return
        content = decode(data)
        if content is not None and self._client.can_write:
            await self.write(path, content)  # so that the editor's buffer follows
        if await asyncio.to_thread(_bytes_or_none, path) != data:
            await asyncio.to_thread(path.write_bytes, data)

    def _is_fresher_on_disk(self, path: Path) -> bool:
        if self._command_began_ns is None:
            return False
        try:
            return path.stat().st_mtime_ns >= self._command_began_ns
        except OSError:
            return False

    async def _read_disk(self, path: Path) -> FileText:
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


def _read_text(path: Path) -> FileText:
    """Raises ToolError."""
    text = decode(read_bytes(path, MAX_FILE_BYTES))
    if text is None:
        raise ToolError(f"{path} is not a text file")
    return text


def _fits_the_protocol(path: Path) -> bool:
    """Return whether the client can read the file without loss, as far as can be seen from here.

    Raises ToolError if it is too long.
    """
    try:
        if not path.is_file():
            return True
        size = path.stat().st_size
        if size > MAX_CLIENT_BYTES:
            raise ToolError(f"{path} has {size} bytes; at most {MAX_CLIENT_BYTES} are read")
        path.read_bytes().decode()
    except UnicodeDecodeError:
        return False
    except OSError:  # the client may be able to read it
        return True
    return True


def _bytes_or_none(path: Path) -> bytes | None:
    return read_bytes(path, MAX_CLIENT_BYTES) if path.is_file() else None


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n")


def _exists(path: Path) -> bool:
    return os.path.lexists(path)


def _is_directory(path: Path) -> bool:
    return path.is_dir()
