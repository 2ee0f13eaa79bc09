"""The permissions that a user gave or refused permanently, in a TOML file for each project.

The file lies outside the project, so that a repository cannot permit anything to itself. It is read for each
decision, because several agents share it and users edit it: a table that is deleted is asked about again.
"""

from __future__ import annotations

import hashlib
import logging
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from helexa_acp.shared_file import replace_text
from helexa_acp.tools.shellwords import parse
from helexa_acp.tools.tool import Permission, PermissionRule

log = logging.getLogger(__name__)

_MATCHES = ("exact", "prefix", "under", "any")


def project_key(cwd: str) -> str:
    """Return a file name that tells a user which project it belongs to and is unique to that project."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", Path(cwd).name) or "root"
    return f"{name[:60]}-{hashlib.sha256(cwd.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


class PermissionRules:
    """The file of one project, whose path is `project`."""

    def __init__(self, path: Path, project: str) -> None:
        self.path = path
        self._project = project

    def read(self) -> dict[str, list[PermissionRule]]:
        """Return the rules under `allow` and `reject`; none of either if the file is damaged."""
        try:
            return self._read()
        except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
            log.warning("%s is ignored: %s", self.path, error)
            return {"allow": [], "reject": []}

    def _read(self) -> dict[str, list[PermissionRule]]:
        try:
            table = tomllib.loads(self.path.read_text("utf-8"))
        except FileNotFoundError:
            table = {}
        return {verdict: _rules(table.get(verdict)) for verdict in ("allow", "reject")}

    def decide(self, permission: Permission) -> bool | None:
        """Return whether a permission is given, or None if no rule covers it. Rejections take precedence."""
        rules = self.read()
        if any(covers(rule, permission) for rule in rules["reject"]):
            return False
        if any(covers(rule, permission) for rule in rules["allow"]):
            return True
        return None

    def remember(self, verdict: str, new: Iterable[PermissionRule]) -> None:
        """Add rules to `verdict`, which is allow or reject. A file with a syntax error is left unchanged."""
        try:
            rules = self._read()
            rules[verdict] += [rule for rule in new if rule not in rules[verdict]]
            self._write(rules)
        except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
            log.warning("a permission is not remembered, as %s cannot be changed: %s", self.path, error)

    def remove(self, verdict: str, rule: PermissionRule) -> None:
        """Remove a rule from `verdict`, as `remember` adds one."""
        try:
            rules = self._read()
            rules[verdict] = [other for other in rules[verdict] if other != rule]
            self._write(rules)
        except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
            log.warning("a permission is not removed, as %s cannot be changed: %s", self.path, error)

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)

    def _write(self, rules: dict[str, list[PermissionRule]]) -> None:
        lines = [f"# Permissions remembered for {self._project!r}. Delete a table to be asked again."]
        for verdict, entries in rules.items():
            for rule in entries:
                lines += [
                    "",
                    f"[[{verdict}]]",
                    f"tool = {_quote(rule.tool)}",
                    f"match = {_quote(rule.match)}",
                ]
                lines += [f"value = {_quote(rule.value)}"] if rule.value else []
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_text(self.path, "\n".join(lines) + "\n")


def covers(rule: PermissionRule, permission: Permission) -> bool:
    """Return whether the rule decides about the permission."""
    if rule.tool not in {permission.tool, permission.broader}:
        return False
    match rule.match:
        case "any":
            return True
        case "exact":
            return rule.value == permission.subject
        case "prefix":
            parsed = parse(rule.value)
            words = parsed[0].words if parsed is not None and len(parsed) == 1 else ()
            return bool(words) and permission.words[: len(words)] == words
        case "under":
            return Path(permission.subject).is_relative_to(rule.value)
    return False


def describe(rule: PermissionRule) -> str:
    """Return what the rule covers, for a user."""
    match rule.match:
        case "prefix":
            return f"{rule.tool} commands that start with `{rule.value}`"
        case "under":
            return f"{rule.tool} below {rule.value}"
        case "any":
            return rule.tool
    return f"{rule.tool} `{rule.value}`"


def _rules(value: Any) -> list[PermissionRule]:
    rules = []
    for entry in value if isinstance(value, list) else []:
        rule = _rule(entry)
        if rule is None:
            log.warning("an invalid permission is ignored: %r", entry)
        else:
            rules.append(rule)
    return rules


def _rule(entry: Any) -> PermissionRule | None:
    match entry:
        case {"tool": str(tool), "match": str(match)} if match in _MATCHES:
            value = entry.get("value")
            return PermissionRule(tool, match, value or "") if isinstance(value, str | None) else None
    return None


def _quote(text: str) -> str:
    """Return the text as a basic TOML string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').encode("utf-8", "replace").decode()
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda m: f"\\u{ord(m.group()):04X}", escaped) + '"'
