"""The sessions of sub-agents (unstable): how a session tells of them, and which updates are theirs.

Imports little, because the client is known before anything else is loaded.
"""

from __future__ import annotations

from typing import Any

Update = dict[str, Any]


def subagent(session_id: str, title: str, state: dict[str, Any]) -> Update:
    """Return what a session says of the session of a sub-agent that it has (unstable)."""
    return {"sessionUpdate": "subagent_update", "sessionId": session_id, "title": title, "state": state}


def in_session(session_id: str | None, update: Update) -> Update:
    """Return the update of a sub-agent's session, unless it has one already; None leaves it as it is."""
    if session_id is None:
        return update
    return {**update, "_meta": {"sessionId": session_id, **update.get("_meta", {})}}


def shown_in(update: Update) -> str | None:
    """Return the sub-agent's session to which an update belongs, if it is one's."""
    place = update.get("_meta", {}).get("sessionId")
    return place if isinstance(place, str) else None
