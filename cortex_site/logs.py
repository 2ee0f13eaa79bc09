"""Structured logs: one JSON object a line on stderr, for every process of the project.

Fields come from `extra`: `log.info("request", extra={"request_id": ..., "status": 200})`. `CORTEX_LOG=text`
prints lines for people instead; `CORTEX_LOG_LEVEL` sets the level.
"""

from __future__ import annotations

import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec

# They tell of every poll and every task; what came of an operation is logged by `cortex.operations`.
_CHATTY = (
    *("httpx", "httpcore", "asyncio", "daphne", "twisted", "kombu", "amqp"),
    *("celery.beat", "celery.worker.strategy", "celery.app.trace"),
)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD and value is not None}


class JsonFormatter(logging.Formatter):
    """One line: time, level, program, logger, message, then whatever `extra` holds."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "program": self._program,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= _extra(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


class TextFormatter(logging.Formatter):
    """For a terminal: time, program, level, message and `key=value` of the extras."""

    def __init__(self, program: str) -> None:
        super().__init__(f"%(asctime)s {program} %(levelname)s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        extra = " ".join(f"{key}={value}" for key, value in _extra(record).items())
        return f"{super().formatMessage(record)} {extra}".rstrip()


def setup(level: str, program: str) -> None:
    """Send everything from `level` up to stderr; `CORTEX_LOG_LEVEL` and `CORTEX_LOG` have the last word."""
    handler = logging.StreamHandler(sys.stderr)
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
