"""The append-only log of one session, shared by all agents that have the session open.

A record is one line, written to a file that is open for appending: a crash loses at most that line, and the
next writer begins a new one. A turn holds the file's lock (`SessionLog.hold`), so that the turns of two
editors do not mix; on taking the lock, each reads what the other has written.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helexa_acp.storage.records import Record, decode, encode

READ_BYTES = 1024 * 1024


class SessionBusyError(Exception):
    """Another process is running a turn of this session."""


class SessionGoneError(Exception):
    """The session was deleted while it was open here."""


class SessionLog:
    """An open log, which is created if it does not exist."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._offset = 0  # everything before it was read or written here, or is in _passed_over
        self._passed_over = b""  # lines of others before _offset that were not read yet
        self._unsynced = False

    def read_new(self) -> list[Record]:
        """Return the records that others wrote since the last call, except for an unfinished last line."""
        data = self._read_from(self._offset)
        whole = data.rfind(b"\n") + 1
        self._offset += whole
        lines = (self._passed_over + data[:whole]).split(b"\n")
        self._passed_over = b""
        return [record for line in lines if (record := decode(line)) is not None]

    @contextmanager
    def hold(self) -> Iterator[list[Record]]:
        """Hold the lock, and yield the records that others wrote before.

        Raises SessionBusyError, SessionGoneError.
        """
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SessionBusyError(f"session {self.path.stem} is busy in another editor") from None
        try:
            if not self._is_current():
                raise SessionGoneError(f"session {self.path.stem} was deleted")
            self._end_torn_line()
            yield self.read_new()
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def append(self, record: Record) -> None:
        """Write a record. Without the lock it must be one that may stand anywhere, such as a choice."""
        self._end_torn_line()
        line = encode(record)
        view = memoryview(line)
        while view:
            view = view[os.write(self._fd, view) :]
        end = os.lseek(self._fd, 0, os.SEEK_CUR)  # the end of this line, wherever others have appended
        self._passed_over += self._read_from(self._offset, end - len(line))
        self._offset = end
        self._unsynced = True

    async def sync(self) -> None:
        """Wait until everything appended is on the disk."""
        if self._unsynced:
            self._unsynced = False
            await asyncio.to_thread(os.fsync, self._fd)

    def close(self) -> None:
        os.close(self._fd)

    def _read_from(self, start: int, stop: int | None = None) -> bytes:
        data = bytearray()
        while stop is None or start + len(data) < stop:
            size = READ_BYTES if stop is None else min(READ_BYTES, stop - start - len(data))
            chunk = os.pread(self._fd, size, start + len(data))
            if not chunk:
                break
            data += chunk
        return bytes(data)

    def _is_current(self) -> bool:
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self._fd))

    def _end_torn_line(self) -> None:
        size = os.fstat(self._fd).st_size
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            os.write(self._fd, b"\n")
