"""Checks that a gateway passes on what the mock node sent: every byte, every chunk, in order."""

from __future__ import annotations

import re

from bench.gateway import mock

STALL_NS = 1_000_000_000
_MARK = re.compile(rb"@(\d{5})\.(\d{19})@")


class StreamCheck:
    """Checks one stream. With `verbatim` every byte must be the node's, else only marks and end count."""

    def __init__(self, count: int, *, verbatim: bool, started_ns: int) -> None:
        self.chunks = 0
        self.stalls = 0
        self.first_ns = 0
        self._count = count
        self._verbatim = verbatim
        self._last_ns = started_ns
        self._tail = b""
        self._finish = self._done = False
        self._problem = ""

    def feed(self, data: bytes, now_ns: int) -> list[int]:
        """The delays of the chunks in `data`, in nanoseconds from the node's write to `now_ns`."""
        self.note_silence(now_ns)
        self.first_ns = self.first_ns or now_ns
        *events, self._tail = (self._tail + data).split(b"\n\n")
        delays = []
        for event in events:
            if mark := _MARK.search(event):
                written = int(mark[2])
                self._expect_chunk(event, int(mark[1]), written)
                delays.append(now_ns - written)
            else:
                self._expect_end(event)
        return delays

    def note_silence(self, now_ns: int) -> None:
        if now_ns - self._last_ns > STALL_NS:
            self.stalls += 1
        self._last_ns = now_ns

    def _expect_chunk(self, event: bytes, number: int, written_ns: int) -> None:
        if number != self.chunks or self._finish:
            self._fail(f"chunk {number} where {self.chunks} was due")
        elif self._verbatim and event + b"\n\n" != mock.chunk(number, written_ns):
            self._fail(f"chunk {number} has other bytes")
        self.chunks += 1

    def _expect_end(self, event: bytes) -> None:
        event += b"\n\n"
        if self._done:
            self._fail("something behind [DONE]")
        elif event == mock.DONE:
            self._done = True
        elif b'"finish_reason":"stop"' in event.replace(b": ", b":"):
            self._finish = True
        if self._verbatim and event not in {mock.FINISH, mock.DONE}:
            self._fail("an event that the node did not send")

    def _fail(self, problem: str) -> None:
        self._problem = self._problem or problem

    def problem(self) -> str:
        """What is wrong with a stream that has ended; empty if nothing is."""
        if self._problem:
            return self._problem
        if self.chunks != self._count:
            return f"{self.chunks} chunks instead of {self._count}"
        if self._tail or not self._done:
            return "no [DONE] at the end"
        return "" if self._finish else "no finish reason"


def answer_problem(status: int, body: bytes, *, verbatim: bool) -> str:
    """What is wrong with an answer that is not streamed; empty if nothing is."""
    if status != 200:
        return f"status {status}"
    if verbatim:
        return "" if body == mock.ANSWER_BODY else "an answer with other bytes"
    return "" if mock.ANSWER_TEXT.encode() in body else "an answer without its text"
