# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
"""The headers that tell a client how its request was answered, as lines."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cortex_site.base.excerpt import as_note
from ext.ledger import Entry
from ext.writer import ByteWriter

IGNORED = "ignored"  # the note that names the fields nobody knows
_writer = ByteWriter()


def answer_lines(content_type: bytes, entry: Entry, wait_s: float | None, ignored: Sequence[str]) -> bytes:
    """Return header lines, each with its CRLF; a node's notes are among them.

    `wait_s` is how long a load is expected to take, told where no node was asked; `ignored` are the fields of
    the request that the gateway left out.
    """
    line = _writer
    line.clear()
    line.put(b"content-type: ")
    line.put(content_type)
    _put(b"\r\nx-request-id: ", entry.request_id)
    if entry.node:
        for name, text in entry.notes:
            if ignored and name == IGNORED:
                ignored = (*ignored, text)
            else:
                _put(b"\r\nx-cortex-", name)
                _put(b": ", text)
        _put(b"\r\nx-cortex-node: ", entry.node)
        line.put_number(b"\r\nx-cortex-queue-ms: ", int(entry.queue_s * 1e3 + 0.5))
        line.put_number(b"\r\nx-cortex-retries: ", entry.retries)
        line.put_number(b"\r\nx-cortex-overhead-us: ", int(entry.overhead_s * 1e6 + 0.5))
    elif wait_s is not None:
        line.put_number(b"\r\nx-cortex-expected-wait-s: ", math.ceil(wait_s))
    if ignored:
        _put(b"\r\nx-cortex-ignored: ", as_note(", ".join(ignored)))
    line.put(b"\r\n")
    return line.written(0, line.size)


def _put(before: bytes, text: str) -> None:
    _writer.put(before)
    _writer.put(text.encode("latin-1"))
