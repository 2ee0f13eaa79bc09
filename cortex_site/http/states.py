"""How far a message is read. Both readers, of requests and of answers, go through these states.

               ┌────────── a request is whole, and another may follow ──────────┐
               ▼                                                                │
            WAITING ── first byte ──▶ HEAD ── empty line ──▶ BODY ── last byte ──┴─▶ END
               │                       │                      │
               └───────────────────────┴─── not HTTP, refused or cut off ─────────▶ ERROR

END and ERROR are final: what follows is not read. A message that the fast path reads skips the states in
between. A step that is not in the table is a mistake of the reader; the tests hold every step to it.
"""

from __future__ import annotations

from enum import Enum

MAX_HEAD_BYTES = 1 << 16  # held of a head that has not ended


class ReadState(Enum):
    WAITING = "waiting"
    HEAD = "head"
    BODY = "body"
    END = "end"
    ERROR = "error"


# Names of their own: up to Python 3.11 the look-up of a member on its class calls a property.
WAITING, HEAD, BODY, END, ERROR = ReadState

TRANSITIONS: dict[ReadState, frozenset[ReadState]] = {
    WAITING: frozenset({HEAD, BODY, END, ERROR}),
    HEAD: frozenset({BODY, ERROR}),
    BODY: frozenset({WAITING, END, ERROR}),
    END: frozenset(),
    ERROR: frozenset(),
}
