"""What a site lets programs read, by its robots.txt (RFC 9309)."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote

MAX_BYTES = 500 * 1024  # the least that the RFC asks for
MAX_LINES = 10_000


@dataclass(frozen=True, slots=True)
class Robots:
    """The rules for one program: paths, and whether they may be read."""

    rules: tuple[tuple[str, bool], ...] = ()

    def allow(self, path: str) -> bool:
        """Return whether a path, with its query, may be read. The longest rule counts; of equals, allow."""
        matching = [(len(rule), may) for rule, may in self.rules if _matches(rule, _normal(path))]
        return max(matching, default=(0, True))[1]


def parse_robots(text: str, product: str) -> Robots:
    """Return the rules for a product's name: of its own groups, else of those for all."""
    groups: dict[str, list[tuple[str, bool]]] = {}
    agents: list[str] = []
    in_rules = False
    for line in text.removeprefix("\ufeff").splitlines()[:MAX_LINES]:
        key, colon, value = line.partition("#")[0].partition(":")
        match key.strip().lower() if colon else "", value.strip():
            case "user-agent", name:
                agents = [] if in_rules else agents
                in_rules = False
                agents.append(name.lower())
                groups.setdefault(name.lower(), [])
            case ("allow" | "disallow") as verb, rule:
                in_rules = True
                for agent in agents if rule else []:
                    groups[agent].append((_normal(rule), verb == "allow"))
    return Robots(tuple(groups.get(product.lower(), groups.get("*", []))))


def _normal(path: str) -> str:
    """Return the path with the same characters escaped, whoever wrote it."""
    return quote(unquote(path, errors="surrogateescape"), safe="/*$?&=;:@!+,()'~", errors="surrogateescape")


def _matches(rule: str, path: str) -> bool:
    """Return whether the rule is a beginning of the path; `*` stands for anything, a last `$` for the end."""
    ends = rule.endswith("$")
    pieces = (rule[:-1] if ends else rule).split("*")
    if not path.startswith(pieces[0]):
        return False
    at = len(pieces[0])
    for piece in pieces[1:]:
        found = path.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return not ends or at == len(path) or (len(pieces) > 1 and path.endswith(pieces[-1]))
