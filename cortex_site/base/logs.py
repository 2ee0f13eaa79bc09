"""Structured logs: one JSON object a line on stderr, for every process of the project.

Fields come from `extra`: `log.info("request", extra={"request_id": ..., "status": 200})`. `CORTEX_LOG=text`
prints lines for people instead; `CORTEX_LOG_LEVEL` sets the level.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

from cortex_site.base.excerpt import excerpt
from cortex_site.base.last_lines import LastLines

# They log every poll and every task; `cortex.operations` logs the outcome of an operation.
_CHATTY = (
    *("httpx", "httpcore", "asyncio", "daphne", "twisted", "kombu", "amqp"),
    *("celery.beat", "celery.worker.strategy", "celery.app.trace"),
)
MAX_WAITING = 10_000  # lines
GATHER_S = 0.1  # lines within this time share one write
CLOSE_S = 1.0
MAX_CHARS, MAX_TRACEBACK_CHARS = 2_000, 20_000  # of one field
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    *("message", "asctime", "taskName", "color_message")
}


_json = msgspec.json.Encoder(enc_hook=str)

Lines = Callable[[], bytes]  # takes lines that wait elsewhere, each with its end


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {
        key: _shown(value)
        for key, value in vars(record).items()
        if key not in _STANDARD and value is not None
    }


def _shown(value: Any) -> Any:
    """Return a field as it is logged: values may be a client's, and as long as it likes."""
    if isinstance(value, str):
        return excerpt(value, MAX_CHARS)
    if isinstance(value, list | tuple | dict) and len(text := str(value)) > MAX_CHARS:
        return excerpt(text, MAX_CHARS)
    return value


class JsonFormatter(logging.Formatter):
    """One JSON object: time, level, program, logger, message, then the fields of `extra`."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program
        self._second = (-1, "")  # of the last line; one value, since several threads read it

    def format(self, record: logging.LogRecord) -> str:
        message = excerpt(record.getMessage(), MAX_CHARS)
        line = {"time": self._time(record.created)}
        line |= self._words(record.levelno, record.name, message) | _extra(record)
        if record.exc_info:
            line["exception"] = excerpt(self.formatException(record.exc_info), MAX_TRACEBACK_CHARS)
        return _json.encode(line).decode()

    def head(self, level: int, logger: str, message: str) -> bytes:
        """The members of a line before its fields, but for its time, without braces."""
        return msgspec.json.encode(self._words(level, logger, message))[1:-1]

    def _words(self, level: int, logger: str, message: str) -> dict[str, Any]:
        name = logging.getLevelName(level).lower()
        return {"level": name, "program": self._program, "logger": logger, "message": message}

    def _time(self, created: float) -> str:
        second = int(created)
        known, moment = self._second
        if second != known:
            moment = datetime.fromtimestamp(second, UTC).isoformat(timespec="seconds").removesuffix("+00:00")
            self._second = second, moment
        return f"{moment}.{int((created - second) * 1000):03}+00:00"


class TextFormatter(logging.Formatter):
    """A line for a terminal: time, program, level, message, and the fields as `key=value`."""

    def __init__(self, program: str) -> None:
        super().__init__(f"%(asctime)s {program} %(levelname)s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        extra = " ".join(f"{key}={value}" for key, value in _extra(record).items())
        return f"{excerpt(super().formatMessage(record), MAX_CHARS)} {extra}".rstrip()


class ThreadHandler(logging.Handler):
    """Writes lines in a thread, several at a time, so that logging never waits for a slow reader.

    At most `max_waiting` lines wait; the number of dropped ones is logged when there is room again. `last`
    keeps what is written.
    """

    def __init__(self, stream: TextIO, max_waiting: int = MAX_WAITING, last: LastLines | None = None) -> None:
        super().__init__()
        self._stream = stream
        self._last = last
        self._max_waiting = max_waiting
        self._lines: queue.SimpleQueue[str | Lines | None] = queue.SimpleQueue()
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        if self._has_room():
            self._lines.put(self.format(record))

    def put_text(self, text: str) -> None:
        """Write whole lines that another process formatted, if there is room; the last one has no end."""
        if self._has_room():
            self._lines.put(text)

    def put(self, lines: Lines) -> None:
        """Have the thread take and write lines, together with what else comes within `GATHER_S`."""
        self._lines.put(lines)

    def _has_room(self) -> bool:
        if self._lines.qsize() >= self._max_waiting:
            self._dropped += 1
            return False
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._lines.put(self.format(_warning("log lines were dropped", lines=dropped)))
        return True

    def close(self) -> None:
        """Write the waiting lines, within `CLOSE_S`."""
        self._lines.put(None)
        self._thread.join(CLOSE_S)
        super().close()

    def _write(self) -> None:
        more = True
        while more:
            lines = [self._lines.get()]
            if lines[0] is not None:
                time.sleep(GATHER_S)  # waking for each line would stop the other threads
            while lines[-1] is not None and self._lines.qsize():
                lines.append(self._lines.get())
            more = lines[-1] is not None
            text = "".join([_text(line) for line in lines if line is not None])
            if self._last is not None:
                self._last.feed(text)
            with suppress(OSError, ValueError):  # nobody reads stderr
                self._stream.write(text)
                self._stream.flush()


def _text(line: str | Lines) -> str:
    return f"{line}\n" if isinstance(line, str) else str(line(), "utf-8")


def _warning(message: str, **facts: Any) -> logging.LogRecord:
    ours = {"name": "cortex.logs", "levelno": logging.WARNING, "levelname": "WARNING"}
    return logging.makeLogRecord({**ours, "msg": message, **facts})


def head(logger: logging.Logger, level: int, message: str) -> bytes:
    """The head of a logger's JSON lines (`JsonFormatter.head`); empty where the level is not logged."""
    if not logger.isEnabledFor(level):
        return b""
    writer = _writer()
    formatter = writer.formatter if writer is not None else JsonFormatter("")
    assert isinstance(formatter, JsonFormatter)
    return formatter.head(level, logger.name, message)


def tell(logger: logging.Logger, take: Lines) -> None:
    """Log lines that wait elsewhere as JSON: bytes where JSON goes to stderr, else a record for each.

    As bytes they are taken later, in a thread, and have cost no more than the call.
    """
    if (writer := _writer()) is not None:
        writer.put(take)
        return
    for line in take().splitlines():
        fields = msgspec.json.decode(line)
        level, message = fields.pop("level"), fields.pop("message")
        for name in ("time", "program", "logger"):
            del fields[name]
        logger.log(logging.getLevelNamesMapping()[level.upper()], message, extra=fields)


def pass_on(text: str) -> None:
    """Write whole lines of a child process where ours go; the last one has no end."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, ThreadHandler):
            handler.put_text(text)
            return
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _writer() -> ThreadHandler | None:
    """The handler of all lines, if it writes JSON in a thread."""
    handlers = logging.getLogger().handlers
    if len(handlers) == 1 and isinstance(handlers[0], ThreadHandler):
        return handlers[0] if isinstance(handlers[0].formatter, JsonFormatter) else None
    return None


def setup(level: str, program: str, last: LastLines | None = None) -> None:
    """Log from `level` up to stderr, and keep `last` lines; `CORTEX_LOG_LEVEL` and `CORTEX_LOG` override."""
    handler = ThreadHandler(sys.stderr, last=last)
    text = os.environ.get("CORTEX_LOG") == "text"
    handler.setFormatter(TextFormatter(program) if text else JsonFormatter(program))
    logging.basicConfig(
        level=os.environ.get("CORTEX_LOG_LEVEL", level).upper(), handlers=[handler], force=True
    )
    logging.captureWarnings(True)
    # No format here uses caller, thread or process, and each costs every record.
    logging._srcfile = None  # noqa: SLF001 - as Python's documentation advises under "Optimization"
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(logging.WARNING)
