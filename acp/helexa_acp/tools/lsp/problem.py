"""What a language server says of a place in a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from helexa_acp.tools.truncation import one_line

MAX_MESSAGE_CHARS = 300
MAX_SHOWN = 20
_WORDS = {1: "error", 2: "warning"}


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    severity: int  # 1 is an error, 2 a warning
    line: int  # from 1, as the column
    column: int
    message: str
    code: str = ""

    def __str__(self) -> str:
        code = f" ({self.code})" if self.code else ""
        return f"{self.line}:{self.column} {_WORDS[self.severity]}: {self.message}{code}"


def parse_problems(items: Any) -> list[Problem]:
    """Return the errors and warnings among the diagnostics of the protocol. Malformed ones are left out."""
    found = {_problem(item) for item in (items if isinstance(items, list) else [])}
    return sorted(problem for problem in found if problem is not None)


def report(server: str, problems: list[Problem]) -> str:
    """Return what to tell of them, the errors first; nothing of none."""
    if not problems:
        return ""
    lines = [str(problem) for problem in problems[:MAX_SHOWN]]
    more = len(problems) - len(lines)
    return "\n".join([f"{server} says of this file:", *lines, *([f"and {more} more"] if more else [])])


def _problem(item: Any) -> Problem | None:
    match item:
        case {"range": {"start": {"line": int(line), "character": int(character)}}, "message": message}:
            severity = item.get("severity", 1)
            if not isinstance(severity, int) or severity not in _WORDS:
                return None
            text = message.get("value") if isinstance(message, dict) else message  # it may be in Markdown
            code = item.get("code")
            shown = str(code) if isinstance(code, str | int) else ""
            return Problem(severity, line + 1, character + 1, one_line(str(text), MAX_MESSAGE_CHARS), shown)
    return None
