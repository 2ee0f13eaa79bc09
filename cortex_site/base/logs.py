"""Structured logs: one JSON object a line on stderr, for every process of the project.

Fields come from `extra`: `log.info("request", extra={"request_id": ..., "status": 200})`. A `msgspec.Struct`
as `extra={"fields": record}` gives all of them at once. `CORTEX_LOG=text` prints lines for people instead;
`CORTEX_LOG_LEVEL` sets the level.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

from cortex_site.base.excerpt import excerpt

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
    *("message", "asctime", "taskName", "color_message", "fields")
}


_json = msgspec.json.Encoder(enc_hook=str)

Deferred = tuple[float, int, str, str, msgspec.Struct]  # time, level, logger, message, fields


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
        self._heads: dict[tuple[int, str, str], str] = {}

    def format(self, record: logging.LogRecord) -> str:
        message = excerpt(record.getMessage(), MAX_CHARS)
        if fields := getattr(record, "fields", None):
            return self.line(record.created, record.levelno, record.name, message, fields)
        line = {"time": self._time(record.created)}
        line |= self._words(record.levelno, record.name, message) | _extra(record)
        if record.exc_info:
            line["exception"] = excerpt(self.formatException(record.exc_info), MAX_TRACEBACK_CHARS)
        return _json.encode(line).decode()

    def line(self, created: float, level: int, logger: str, message: str, fields: msgspec.Struct) -> str:
        """The line for `fields` at a time in seconds since the epoch. Heads are cached: use few messages."""
        head = self._heads.get((level, logger, message))
        if head is None:
            words = self._words(level, logger, message)
            head = self._heads[level, logger, message] = msgspec.json.encode(words)[1:-1].decode()
        rest = str(_json.encode(fields), "utf-8")
        return f'{{"time":"{self._time(created)}",{head},{rest[1:]}'

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
        fields = msgspec.structs.asdict(record.fields) if hasattr(record, "fields") else {}
        extra = " ".join(f"{key}={value}" for key, value in (_extra(record) | fields).items())
        return f"{excerpt(super().formatMessage(record), MAX_CHARS)} {extra}".rstrip()


class ThreadHandler(logging.Handler):
    """Writes lines in a thread, several at a time, so that logging never waits for a slow reader.

    At most `max_waiting` lines wait; the number of dropped ones is logged when there is room again.
    """

    def __init__(self, stream: TextIO, max_waiting: int = MAX_WAITING) -> None:
        super().__init__()
        self._stream = stream
        self._max_waiting = max_waiting
        self._lines: queue.SimpleQueue[str | Deferred | None] = queue.SimpleQueue()
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        if self._has_room():
            self._lines.put(self.format(record))

    def put(self, line: Deferred) -> None:
        """Queue a line that the thread formats; needs a `JsonFormatter`."""
        if self._has_room():
            self._lines.put(line)

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
            text = "".join([f"{self._text(line)}\n" for line in lines if line is not None])
            with suppress(OSError, ValueError):  # nobody reads stderr
                self._stream.write(text)
                self._stream.flush()

    def _text(self, line: str | Deferred) -> str:
        if isinstance(line, str):
            return line
        assert isinstance(self.formatter, JsonFormatter)
        try:
            return self.formatter.line(*line)
        except ValueError as error:  # half a surrogate pair: nothing may end this thread
            return self.format(_warning("a log line cannot be written", error=str(error)))


def _warning(message: str, **facts: Any) -> logging.LogRecord:
    ours = {"name": "cortex.logs", "levelno": logging.WARNING, "levelname": "WARNING"}
    return logging.makeLogRecord({**ours, "msg": message, **facts})


def tell(logger: logging.Logger, level: int, message: str, fields: msgspec.Struct, created: float) -> None:
    """Log `fields` at the time `created`, as `logger.log(level, message, extra={"fields": fields})` would.

    With JSON lines it costs a tenth of that: it makes no `LogRecord`, and the writing thread formats the
    line. `fields` must not change afterwards.
    """
    if not logger.isEnabledFor(level):
        return
    for handler in logging.getLogger().handlers:
        formatter = handler.formatter
        if isinstance(handler, ThreadHandler) and isinstance(formatter, JsonFormatter):
            handler.put((created, level, logger.name, message, fields))
        else:
            facts = {"msg": message, "created": created, "fields": fields}
            facts |= {"name": logger.name, "levelno": level, "levelname": logging.getLevelName(level)}
            handler.handle(logging.makeLogRecord(facts))


def setup(level: str, program: str) -> None:
    """Log from `level` up to stderr; `CORTEX_LOG_LEVEL` and `CORTEX_LOG` override level and format."""
    handler = ThreadHandler(sys.stderr)
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
