"""The texts at which a response template begins and ends its fields: literals, or patterns of the file's.

A file's patterns run on the event loop, so their time is bounded. A pattern has at most `MAX_PATTERN_CHARS`
characters, and the `regex` package stops a search that exceeds its time. That is taken from a budget of the
answer: `BURST_SECONDS` at once, and `PIECE_SECONDS` more for each piece that is fed. When the budget is used
up, `OutOfTimeError` is raised, and no pattern of that answer runs again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import regex

from neuron.text.markers import MarkerSet

MAX_PATTERN_CHARS = 400
BURST_SECONDS = 0.05
PIECE_SECONDS = 50e-6


class UnreadableTemplateError(Exception):
    """A response template that cannot be used; the message says which part and why."""


class OutOfTimeError(Exception):
    """The patterns of a response template took more time than an answer has for them."""


class TimeBudget:
    """What is left of the time that patterns may take for one answer."""

    def __init__(self) -> None:
        self._left = BURST_SECONDS

    def refill(self) -> None:
        """Add the time that a further piece of the answer brings."""
        self._left = min(self._left + PIECE_SECONDS, BURST_SECONDS)

    def search(self, pattern: Any, text: str, *, partial: bool) -> Any:
        """The first match, or with `partial` what may become one. Raises `OutOfTimeError`."""
        started = time.perf_counter()
        try:
            return pattern.search(text, partial=partial, timeout=self._checked())
        except TimeoutError as error:
            raise OutOfTimeError from error
        finally:
            self._left -= time.perf_counter() - started

    def matches(self, pattern: Any, text: str) -> Iterator[Any]:
        """All matches. Raises `OutOfTimeError`."""
        started = time.perf_counter()
        try:
            yield from list(pattern.finditer(text, timeout=self._checked()))
        except TimeoutError as error:
            raise OutOfTimeError from error
        finally:
            self._left -= time.perf_counter() - started

    def _checked(self) -> float:
        if self._left <= 0:
            raise OutOfTimeError
        return self._left


@dataclass(frozen=True, slots=True)
class Found:
    """A delimiter in a text, with what the pattern's named groups hold."""

    start: int
    end: int
    groups: dict[str, str] = field(default_factory=dict)


class Literals:
    """One of several texts. A text that is the beginning of another waits for the longer one."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self._markers = MarkerSet(texts)
        self._may_grow = {a for a in texts for b in texts if a != b and b.startswith(a)}

    def find(self, text: str, budget: TimeBudget, *, is_end: bool) -> tuple[Found | None, int]:
        """The delimiter, if nothing that follows can change it, and how much of `text` stands before any."""
        at, found = self._markers.find(text)
        if found and (is_end or found.end() < len(text) or found[0] not in self._may_grow):
            return Found(found.start(), found.end()), len(text)
        return None, len(text) if is_end else at


class Pattern:
    """A regular expression; a match at the end of the text waits for what follows."""

    def __init__(self, source: str, scope: str) -> None:
        self.compiled = compiled(source, scope)
        self.groups = set(self.compiled.groupindex)

    def find(self, text: str, budget: TimeBudget, *, is_end: bool) -> tuple[Found | None, int]:
        """As `Literals.find`."""
        found = budget.search(self.compiled, text, partial=not is_end)
        if not found:
            return None, len(text)
        if not is_end and (found.partial or found.end() == len(text)):
            return None, found.start()
        groups = {name: value for name, value in found.groupdict().items() if value is not None}
        return Found(found.start(), found.end(), groups), len(text)


Delimiter = Literals | Pattern


def compiled(source: Any, scope: str) -> Any:
    """The pattern. Raises `UnreadableTemplateError`."""
    if not isinstance(source, str):
        raise UnreadableTemplateError(f"{scope}: a pattern must be a string")
    if len(source) > MAX_PATTERN_CHARS:
        raise UnreadableTemplateError(f"{scope}: a pattern may have {MAX_PATTERN_CHARS} characters")
    try:
        return regex.compile(source, regex.DOTALL)
    except (regex.error, RecursionError, OverflowError, MemoryError) as error:
        raise UnreadableTemplateError(f"{scope}: {source!r} is no pattern: {error}") from error


def read_delimiter(scope: str, spec: dict[str, Any], name: str) -> Delimiter | None:
    """The delimiter of that name, given as texts or as a pattern. Raises `UnreadableTemplateError`."""
    literal, pattern = spec.get(name), spec.get(f"{name}_pattern")
    if literal is not None and pattern is not None:
        raise UnreadableTemplateError(f"{scope}: has both {name} and {name}_pattern")
    if pattern is not None:
        return Pattern(pattern, scope)
    if literal is None:
        return None
    texts = literal if isinstance(literal, list) else [literal]
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise UnreadableTemplateError(
            f"{scope}: {name} must be a text or a list of texts, none of them empty"
        )
    return Literals(texts)
