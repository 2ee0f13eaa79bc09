"""The sessions of a user: a log for each, and beside it a note, so that a list needs to read no logs."""

from __future__ import annotations

import base64
import json
import re
import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from helexa_acp.shared_file import read_json, update_json
from helexa_acp.storage.copies import FileCopies
from helexa_acp.storage.log import SessionLog
from helexa_acp.storage.records import Opened, Titled, UserSaid

PAGE_SIZE = 50

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class NoSuchSessionError(Exception):
    pass


class BadCursorError(Exception):
    pass


@dataclass(frozen=True, slots=True)
class SessionNote:
    """A session's entry in the list."""

    id: str
    cwd: str
    title: str | None
    updated_at: str  # ISO 8601, UTC
    additional: tuple[str, ...] = ()  # the directories that it was last opened with, beside `cwd`
    archived: bool = False  # by a client: left out of lists, unless they ask for it


def now_iso() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class SessionStore:
    """The logs and notes in one directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def create(self, cwd: str) -> tuple[str, SessionLog]:
        """Return the id and the open log of a new session, which is not listed before its first note."""
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        id_ = _new_id()
        log = SessionLog(self._path(id_))
        log.append(Opened(cwd, now_iso()))
        return id_, log

    def open(self, id_: str) -> SessionLog:
        """Return the open log of a session. Raises NoSuchSessionError."""
        path = self._path(id_) if _ID.fullmatch(id_) else None
        if path is None or not path.is_file():
            raise NoSuchSessionError(f"there is no session {id_!r}")
        return SessionLog(path)

    def delete(self, id_: str) -> None:
        if _ID.fullmatch(id_):
            self._path(id_).unlink(missing_ok=True)
            self._note_path(id_).unlink(missing_ok=True)
            self.copies(id_).delete()

    def copy(self, id_: str) -> str:
        """Return the id of a copy of a session. Raises NoSuchSessionError."""
        self.open(id_).close()
        copy = _new_id()
        data = self._path(id_).read_bytes()
        self._path(copy).touch(mode=0o600)
        self._path(copy).write_bytes(data[: data.rfind(b"\n") + 1])
        self.copies(id_).copy_to(self.copies(copy))
        return copy

    def cwd_of(self, id_: str) -> str | None:
        """Return the directory of a session, or None if there is no such session or it has no prompt."""
        path = self._path(id_) if _ID.fullmatch(id_) else None
        note = self._read_note(path) if path is not None and path.is_file() else None
        return note.cwd if note else None

    def copies(self, id_: str) -> FileCopies:
        """Return the copies of the files that a session has changed."""
        return FileCopies(self._root / f"{id_}.copies")

    def note(self, id_: str, cwd: str, title: str | None, additional: Iterable[str] = ()) -> str:
        """Write a session's note, and return its time."""
        updated_at = now_iso()
        note = {"cwd": cwd, "title": title, "updated_at": updated_at, "additional": list(additional)}
        update_json(self._note_path(id_), lambda kept: {"archived": _is_archived(kept), **note})
        return updated_at

    def archive(self, id_: str, *, archived: bool) -> None:
        """Archive a session, or take it back. Raises NoSuchSessionError."""
        self.open(id_).close()
        update_json(self._note_path(id_), lambda kept: {**kept, "archived": archived})

    def retitle(self, id_: str, title: str) -> None:
        """Give a session a title. Raises NoSuchSessionError."""
        log = self.open(id_)
        try:
            log.append(Titled(title))
        finally:
            log.close()
        update_json(self._note_path(id_), lambda kept: {**kept, "title": title})

    def page(
        self,
        cwd: str | None,
        cursor: str | None,
        size: int = PAGE_SIZE,
        archived: Collection[bool] = (False,),
    ) -> tuple[list[SessionNote], str | None]:
        """Return a page of the list, the latest first, and the cursor of the next. Raises BadCursorError.

        With `cwd`, the list has only sessions of that directory. Without True in `archived` it has no
        archived sessions, without False no others.
        """
        before = _decode_cursor(cursor)
        notes = [note for note in self._notes() if note.archived in archived and cwd in {None, note.cwd}]
        notes.sort(key=_place, reverse=True)
        if before is not None:
            notes = [note for note in notes if _place(note) < before]
        page = notes[:size]
        more = len(notes) > len(page)
        return page, _encode_cursor(_place(page[-1])) if more else None

    def _notes(self) -> list[SessionNote]:
        return [note for path in self._root.glob("*.jsonl") if (note := self._read_note(path)) is not None]

    def _read_note(self, path: Path) -> SessionNote | None:
        kept = read_json(self._note_path(path.stem))
        if isinstance(kept.get("cwd"), str) and isinstance(kept.get("updated_at"), str):
            title = kept.get("title")
            additional = kept.get("additional")
            return SessionNote(
                path.stem,
                kept["cwd"],
                title if isinstance(title, str) else None,
                kept["updated_at"],
                tuple(map(str, additional)) if isinstance(additional, list) else (),
                _is_archived(kept),
            )
        found = self._note_from_log(path)
        return replace(found, archived=_is_archived(kept)) if found else None

    def _note_from_log(self, path: Path) -> SessionNote | None:
        """Return a note made from the log, or None if it cannot be read or has no prompt."""
        try:
            log = SessionLog(path)
            try:
                records = log.read_new()
            finally:
                log.close()
            at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        except OSError:
            return None
        cwd = next((record.cwd for record in records if isinstance(record, Opened)), None)
        if not any(isinstance(record, UserSaid) for record in records):
            return None
        title = next((record.title for record in reversed(records) if isinstance(record, Titled)), None)
        updated_at = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return None if cwd is None else SessionNote(path.stem, cwd, title, updated_at)

    def _path(self, id_: str) -> Path:
        return self._root / f"{id_}.jsonl"

    def _note_path(self, id_: str) -> Path:
        return self._root / f"{id_}.note.json"


def _is_archived(kept: dict[str, Any]) -> bool:
    return kept.get("archived") is True


def _new_id() -> str:
    return f"ses_{uuid.uuid4().hex}"


def _place(note: SessionNote) -> tuple[str, str]:
    return note.updated_at, note.id


def _encode_cursor(place: tuple[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def _decode_cursor(cursor: str | None) -> tuple[str, str] | None:
    if cursor is None:
        return None
    try:
        at, id_ = json.loads(base64.urlsafe_b64decode(cursor.encode()))
    except (ValueError, TypeError):
        raise BadCursorError("the cursor is invalid") from None
    if not (isinstance(at, str) and isinstance(id_, str)):
        raise BadCursorError("the cursor is invalid")
    return at, id_
