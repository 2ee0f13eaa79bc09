"""Which paths tools may touch: the session's directory and its additional ones, with links and `..`
resolved first."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from helexa_acp.tools.errors import ToolError


def expand(path: str, home: str | None) -> str:
    """`~`, `~/…`, `$HOME`, `$HOME/…`; nothing else, and nothing without a home."""
    for prefix in ("~", "$HOME"):
        if home and (path == prefix or path.startswith(prefix + "/")):
            return home + path[len(prefix) :]
    return path


class Roots:
    def __init__(self, cwd: str, additional: Iterable[str] = (), files: Iterable[Path] = ()) -> None:
        self.cwd = Path(cwd)
        self._roots = [Path(os.path.realpath(root)) for root in (cwd, *additional)]
        self._files = {Path(os.path.realpath(file)) for file in files}  # allowed by themselves

    def resolve(self, path: str) -> Path:
        """The real path. Raises ToolError for one outside the roots."""
        if "\0" in path:
            raise ToolError("path holds a null character")
        if not path.strip():
            raise ToolError("path is empty")
        wanted = self.cwd / expand(path, os.environ.get("HOME"))
        try:
            real = Path(os.path.realpath(wanted))
        except (OSError, ValueError) as error:
            raise ToolError(f"{path}: {error}") from error
        if real in self._files or any(real.is_relative_to(root) for root in self._roots):
            return real
        allowed = ", ".join(map(str, self._roots))
        raise ToolError(f"{path} is outside the session's directories ({allowed})")

    def is_plan(self, path: Path) -> bool:
        return path in self._files

    def shown(self, path: Path) -> str:
        """Relative to the working directory where that is shorter."""
        base = self._roots[0]
        return str(path.relative_to(base)) if path.is_relative_to(base) and path != base else str(path)
