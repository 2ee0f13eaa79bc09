"""The protocol's methods on sessions that need not be open: the list, titles, the archive.

They raise RpcError.
"""

from __future__ import annotations

from typing import Any

from helexa_acp.rpc.framing import NOT_FOUND, RpcError
from helexa_acp.storage.store import BadCursorError, NoSuchSessionError, SessionNote, SessionStore
from helexa_acp.tools.truncation import one_line
from helexa_acp.v1 import params as check

Params = dict[str, Any]

MAX_TITLE_CHARS = 200
FILTERS = {"exclude": (False,), "include": (False, True), "only": (True,)}  # of archived sessions


def page(store: SessionStore, params: Params) -> Params:
    """Return a page of the list of sessions."""
    cwd = check.absolute(params) if params.get("cwd") is not None else None
    chosen = check.optional_string(params, "archived") or "exclude"
    if chosen not in FILTERS:
        raise check.invalid(f"archived: {chosen!r} is none of {', '.join(FILTERS)}")
    try:
        notes, cursor = store.page(cwd, check.optional_string(params, "cursor"), archived=FILTERS[chosen])
    except BadCursorError as error:
        raise check.invalid(f"cursor: {error}") from error
    answer: Params = {"sessions": [_note_json(note) for note in notes]}
    return {**answer, "nextCursor": cursor} if cursor else answer


def archive(store: SessionStore, id_: str, *, archived: bool) -> Params:
    try:
        store.archive(id_, archived=archived)
    except NoSuchSessionError as error:
        raise not_found(id_, error) from error
    return {}


def retitle(store: SessionStore, id_: str, title: str) -> None:
    try:
        store.retitle(id_, title)
    except NoSuchSessionError as error:
        raise not_found(id_, error) from error


def title_of(params: Params) -> str:
    """Return the title that a client sets, on one line and not too long."""
    title = one_line(check.string(params, "title"), MAX_TITLE_CHARS).strip()
    if not title:
        raise check.invalid("title is empty")
    return title


def status(store: SessionStore, id_: str) -> Params:
    """Return the status of a session that is not open here."""
    try:
        store.open(id_).close()
    except NoSuchSessionError as error:
        raise not_found(id_, error) from error
    return {"status": "saved"}


def not_found(id_: str, error: NoSuchSessionError) -> RpcError:
    return RpcError(NOT_FOUND, str(error), {"sessionId": id_, "details": str(error)})


def _note_json(note: SessionNote) -> Params:
    body: Params = {
        "sessionId": note.id,
        "cwd": note.cwd,
        "updatedAt": note.updated_at,
        "archived": note.archived,
    }
    if note.additional:
        body["additionalDirectories"] = list(note.additional)
    return {**body, "title": note.title} if note.title else body
