"""Undoing the last turn: its files get the bytes back that they had before its edits."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from helexa_acp.agent.session import Session
from helexa_acp.cancellation import CancelToken
from helexa_acp.storage.copies import LostCopyError, digest
from helexa_acp.storage.records import Edited, Undone
from helexa_acp.tools.errors import ToolError


async def undo(session: Session, _: str, cancel: CancelToken) -> None:
    """Undo all edits of the last turn, or none of them if a file has changed since. Raises Cancelled."""
    turns = session.transcript.turns
    if not turns:
        session.say("There is no turn to undo.")
        return
    edits = _edits(turns[-1].edits)
    try:
        copies = [await asyncio.to_thread(_copy, session, edit) for edit in edits]
        for edit in edits:
            await cancel.race(_check_unchanged(session, edit))
        for edit, data in zip(edits, copies, strict=True):
            await cancel.race(session.files.restore(Path(edit.path), data))
    except (ToolError, LostCopyError, OSError) as error:
        session.say(f"Not undone: {error}.")
        return
    session.keep(Undone(turns[-1].message_id))
    files = ", ".join(f"`{session.roots.shown(Path(edit.path))}`" for edit in edits) or "no file"
    session.say(f"The last turn is undone; restored: {files}.")


def _edits(records: list[Edited]) -> list[Edited]:
    """Return one edit for each file: from before the first one to after the last one."""
    whole: dict[str, Edited] = {}
    for record in records:
        whole[record.path] = replace(whole.get(record.path, record), after=record.after)
    return list(whole.values())


def _copy(session: Session, edit: Edited) -> bytes | None:
    return None if edit.before is None else session.copies.read(edit.before)


async def _check_unchanged(session: Session, edit: Edited) -> None:
    """Raises ToolError if the file is neither what the edits left nor, as if they had failed, what it was."""
    now = await session.files.read_or_none(Path(edit.path))
    there = None if now is None else digest(now.data)
    if there not in {edit.before, edit.after}:
        raise ToolError(f"{edit.path} has changed since")
