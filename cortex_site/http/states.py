"""How far a message is read. Both readers, of requests and of answers, go through these states.

                  ┌───────────── a request is whole, the next one may follow ─────────────┐
                  ▼                                                                        │
               WAITING ── first byte ──▶ HEAD ── empty line ──▶ BODY ── last byte ─────────┴──▶ END
                  │                       │                      │
                  └───────────────────────┴──── not HTTP, or cut off ────▶ ERROR

END and ERROR are final: nothing that follows is read. A reader that gets a message in one piece skips the
states in between. What is not in the table is a mistake of the reader; the tests hold each step to it.
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


# Bound to names of their own: up to Python 3.11 a member's look-up on the class calls a property.
WAITING, HEAD, BODY, END, ERROR = ReadState

TRANSITIONS: dict[ReadState, frozenset[ReadState]] = {
    WAITING: frozenset({HEAD, BODY, END, ERROR}),
    HEAD: frozenset({WAITING, BODY, END, ERROR}),
    BODY: frozenset({WAITING, END, ERROR}),
    END: frozenset(),
    ERROR: frozenset(),
}
