"""The quirks of an endpoint's server, learned from the text of its refusals.

An adapter consults `Quirks` while it encodes a request; `learn` derives the quirks to try next from a 400.
`QuirkBook` remembers them for each endpoint and model, in a JSON file that several agents share.
"""

from __future__ import annotations

import logging
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from helexa_acp.shared_file import read_json, update_json

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Quirks:
    """How a server differs from the others of its wire."""

    stream: bool = True
    stream_options: bool = True
    max_tokens_field: str = "max_tokens"
    sampling: bool = True  # temperature and top_p are accepted
    tools: bool = True
    images: bool = True
    effort: bool = True
    thinking: str = "enabled"  # Anthropic's type: "enabled" with a budget, or "adaptive" with an effort
    system_role: str = "system"
    reasoning_roundtrip: bool = False  # reasoning_content must be sent back
    short_tool_ids: bool = False  # ids of calls have nine letters and digits
    text_tools: bool = False  # the model writes its calls as marked text
    cache_control: bool = True
    encrypted_reasoning: bool = True
    counts: bool = True  # the server can tell the length of a prompt

    def changed(self) -> dict[str, Any]:
        """Return the values that differ from the defaults."""
        default = Quirks()
        return {name: value for name, value in asdict(self).items() if value != getattr(default, name)}


@dataclass(frozen=True, slots=True)
class _Lesson:
    pattern: re.Pattern[str]
    field: str
    value: Any


def _lesson(pattern: str, field: str, value: Any) -> _Lesson:
    return _Lesson(re.compile(pattern, re.IGNORECASE | re.DOTALL), field, value)


_NOT = (
    "(?:unsupported|not support|unrecognized|unknown|unexpected|not permitted|not allowed"
    "|extra|invalid|does not)"
)


_NO_SUPPORT = "(?:does not|doesn't|do not|don't|not) support"


def _refused(what: str, field: str, value: Any) -> _Lesson:
    """A lesson from `what` near a word of refusal, in either order."""
    return _lesson(rf"(?:{what}).{{0,120}}{_NOT}|{_NOT}.{{0,120}}(?:{what})", field, value)


# The first match that changes something wins, so specific patterns stand before general ones.
_LESSONS = (
    _lesson(r"max_tokens.{0,120}max_completion_tokens", "max_tokens_field", "max_completion_tokens"),
    _lesson(r"max_completion_tokens", "max_tokens_field", "max_tokens"),
    _lesson(r"stream_options|include_usage", "stream_options", False),
    _lesson(r"reasoning_content.{0,160}(?:must|missing|pass|required|back)", "reasoning_roundtrip", True),
    _lesson(r"(?:must|missing).{0,80}reasoning_content", "reasoning_roundtrip", True),
    _lesson(r"thinking.{0,80}adaptive|adaptive.{0,80}thinking", "thinking", "adaptive"),
    _lesson(r"tool.?call.?id.{0,160}(?:9|nine)|(?:length of 9|9 char)", "short_tool_ids", True),
    _lesson(r"reasoning_effort|reasoning\.effort|output_config|budget_tokens", "effort", False),
    _refused("thinking", "effort", False),
    _lesson(r"encrypted_content|['\"\s]include['\"\s]", "encrypted_reasoning", False),
    _lesson(r"cache_control", "cache_control", False),
    _refused("temperature|top_p", "sampling", False),
    _refused("developer", "system_role", "system"),
    _refused("system.{0,20}(?:role|message)|role.{0,40}system", "system_role", "developer"),
    _refused("image|vision|multimodal", "images", False),
    _lesson(rf"{_NO_SUPPORT} stream|stream(?:ing)? (?:is|are) not supported", "stream", False),
    # Only plain statements count: an agent is of little use without tools.
    _lesson(rf"{_NO_SUPPORT} (?:tools|tool use|tool calling|function calling)", "tools", False),
)


def learn(quirks: Quirks, status: int | None, text: str) -> Quirks | None:
    """Return the quirks to try after a refusal, or None if it teaches nothing new."""
    if status not in {400, 404, 415, 422, 501}:
        return None
    for lesson in _LESSONS:
        if not lesson.pattern.search(text) or getattr(quirks, lesson.field) == lesson.value:
            continue
        changes: dict[str, Any] = {lesson.field: lesson.value}
        return replace(quirks, **changes)
    return None


class QuirkBook:
    """The quirks learned of all endpoints, by "endpoint:model"."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, dict[str, Any]] | None = None

    def get(self, key: str, base: Quirks | None = None) -> Quirks:
        """Return `base`, or the defaults, changed by what was learned."""
        known = self._load().get(key, {})
        names = {field.name for field in fields(Quirks)}
        return replace(base or Quirks(), **{name: value for name, value in known.items() if name in names})

    def remember(self, key: str, quirks: Quirks) -> None:
        changed = quirks.changed()
        self._load()[key] = changed
        log.info("endpoint %s: learned %s", key, changed)
        if self._path is None:
            return
        try:
            update_json(self._path, lambda known: {**known, key: changed})
        except OSError as error:
            log.warning("cannot remember quirks in %s: %s", self._path, error)

    def _load(self) -> dict[str, dict[str, Any]]:
        if self._known is None:
            content = read_json(self._path) if self._path else {}
            self._known = {key: value for key, value in content.items() if isinstance(value, dict)}
        return self._known
