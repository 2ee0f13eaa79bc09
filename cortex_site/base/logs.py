"""Structured logs: one JSON object a line on stderr, for every process of the project.

Fields come from `extra`: `log.info("request", extra={"request_id": ..., "status": 200})`, or of a
`msgspec.Struct` at once, and then of nothing else: `extra={"fields": record}`. `CORTEX_LOG=text` prints lines
for people instead; `CORTEX_LOG_LEVEL` sets the level.
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

# They tell of every poll and every task; what came of an operation is logged by `cortex.operations`.
_CHATTY = (
    *("httpx", "httpcore", "asyncio", "daphne", "twisted", "kombu", "amqp"),
    *("celery.beat", "celery.worker.strategy", "celery.app.trace"),
)
MAX_WAITING = 10_000  # lines
GATHER_S = 0.1  # lines that follow one another so soon are one write
CLOSE_S = 1.0
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    *("message", "asctime", "taskName", "color_message", "fields")
}


_json = msgspec.json.Encoder(enc_hook=str)

Told = tuple[float, int, str, str, msgspec.Struct]  # when, level, logger, message, fields


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD and value is not None}


class JsonFormatter(logging.Formatter):
    """One line: time, level, program, logger, message, then whatever `extra` holds."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program
        self._second = (-1, "")  # of the last line, and as text; one value, for several threads come here
        self._heads: dict[tuple[int, str, str], str] = {}

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if fields := getattr(record, "fields", None):
            return self.line(record.created, record.levelno, record.name, message, fields)
        line = {"time": self._time(record.created)}
        line |= self._words(record.levelno, record.name, message) | _extra(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _json.encode(line).decode()

    def line(self, created: float, level: int, logger: str, message: str, fields: msgspec.Struct) -> str:
        """What `fields` says, at a moment given in seconds since the epoch. Few `message`s come this way."""
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
    """For a terminal: time, program, level, message and `key=value` of the extras."""

    def __init__(self, program: str) -> None:
        super().__init__(f"%(asctime)s {program} %(levelname)s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        fields = msgspec.structs.asdict(record.fields) if hasattr(record, "fields") else {}
        extra = " ".join(f"{key}={value}" for key, value in (_extra(record) | fields).items())
        return f"{super().formatMessage(record)} {extra}".rstrip()


class ThreadHandler(logging.Handler):
    """Lines are written by a thread, some at a time: whoever logs never waits for whoever reads.

    At most `max_waiting` lines wait; how many more there were is told when there is room again.
    """

    def __init__(self, stream: TextIO, max_waiting: int = MAX_WAITING) -> None:
        super().__init__()
        self._stream = stream
        self._max_waiting = max_waiting
        self._lines: queue.SimpleQueue[str | Told | None] = queue.SimpleQueue()
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        if self._has_room():
            self._lines.put(self.format(record))

    def put(self, told: Told) -> None:
        """What a `JsonFormatter` makes a line of; the thread asks it to."""
        if self._has_room():
            self._lines.put(told)

    def _has_room(self) -> bool:
        if self._lines.qsize() >= self._max_waiting:
            self._dropped += 1
            return False
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._lines.put(self.format(_warning("log lines were dropped", lines=dropped)))
        return True

    def close(self) -> None:
        """Write what waits, if somebody reads it soon."""
        self._lines.put(None)
        self._thread.join(CLOSE_S)
        super().close()

    def _write(self) -> None:
        more = True
        while more:
            lines = [self._lines.get()]
            if lines[0] is not None:
                time.sleep(GATHER_S)  # a thread woken for each line would stop the others for each
            while lines[-1] is not None and self._lines.qsize():
                lines.append(self._lines.get())
            more = lines[-1] is not None
            text = "".join([f"{self._text(line)}\n" for line in lines if line is not None])
            with suppress(OSError, ValueError):  # nobody reads: there is nobody to tell either
                self._stream.write(text)
                self._stream.flush()

    def _text(self, line: str | Told) -> str:
        if isinstance(line, str):
            return line
        assert isinstance(self.formatter, JsonFormatter)
        try:
            return self.formatter.line(*line)
        except ValueError as error:  # half a character in a string, say: nothing may end this thread
            return self.format(_warning("a log line cannot be written", error=str(error)))


def _warning(message: str, **facts: Any) -> logging.LogRecord:
    ours = {"name": "cortex.logs", "levelno": logging.WARNING, "levelname": "WARNING"}
    return logging.makeLogRecord({**ours, "msg": message, **facts})


def tell(logger: logging.Logger, level: int, message: str, fields: msgspec.Struct, created: float) -> None:
    """`logger.log(level, message, extra={"fields": fields})` of a moment that has passed.

    Where lines are JSON it costs a tenth of that: there is no record of the logging module's in between, and
    the line is made by the thread that writes it. `fields` must not change any more.
    """
    if not logger.isEnabledFor(level):
        return
    for handler in logging.getLogger().handlers:
        formatter = handler.formatter
        if isinstance(handler, ThreadHandler) and isinstance(formatter, JsonFormatter):
            handler.put((created, level, logger.name, message, fields))
        else:
            told = {"msg": message, "created": created, "fields": fields}
            facts = {"name": logger.name, "levelno": level, "levelname": logging.getLevelName(level)}
            handler.handle(logging.makeLogRecord(facts | told))


def setup(level: str, program: str) -> None:
    """Send everything from `level` up to stderr; `CORTEX_LOG_LEVEL` and `CORTEX_LOG` have the last word."""
    handler = ThreadHandler(sys.stderr)
    text = os.environ.get("CORTEX_LOG") == "text"
    handler.setFormatter(TextFormatter(program) if text else JsonFormatter(program))
    logging.basicConfig(
        level=os.environ.get("CORTEX_LOG_LEVEL", level).upper(), handlers=[handler], force=True
    )
    logging.captureWarnings(True)
    # No format here names them, and each costs every record: caller, thread, process.
    logging._srcfile = None  # noqa: SLF001 - as Python's documentation advises under "Optimization"
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(logging.WARNING)
