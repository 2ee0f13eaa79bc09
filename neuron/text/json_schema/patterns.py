"""Regular expressions of schemas: look-aheads at the beginning are conjunctions, which grammars know."""

from __future__ import annotations

MAX_LOOK_AHEADS = 16


def conjuncts(pattern: str) -> list[str]:
    """Patterns that together say the same as `pattern`, without the look-aheads `(?=…)` at its beginning."""
    if not pattern.startswith("^(?=") or _has_alternatives(pattern):
        return [pattern]
    found: list[str] = []
    rest = pattern[1:]
    while rest.startswith("(?="):
        end = _closing(rest)
        if end is None or len(found) == MAX_LOOK_AHEADS:
            return [pattern]
        found.append(f"^(?:{rest[3:end]})")
        rest = rest[end + 1 :]
        if rest[:1] in {"*", "+", "?", "{"}:
            return [pattern]
    return [*found, f"^{rest}"]


def _depths(pattern: str) -> list[tuple[int, str, int]]:
    """Index, character and depth of groups for all that is neither escaped nor in a class."""
    found: list[tuple[int, str, int]] = []
    depth, in_class, at = 0, False, 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            at += 1
        elif in_class:
            in_class = char != "]"
        else:
            in_class = char == "["
            depth += (char == "(") - (char == ")")
            found.append((at, char, depth))
        at += 1
    return found


def _has_alternatives(pattern: str) -> bool:
    return any(char == "|" and depth == 0 for _, char, depth in _depths(pattern))


def _closing(pattern: str) -> int | None:
    """Where the group ends that `pattern` begins with."""
    return next((at for at, char, depth in _depths(pattern) if char == ")" and depth == 0), None)
