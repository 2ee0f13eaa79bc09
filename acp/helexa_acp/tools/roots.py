"""The paths that tools may touch: those below the session's directories, with links and `..` resolved."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from helexa_acp.tools.errors import ToolError


def expand(path: str, home: str | None) -> str:
    """Return the path with a leading `~` or `$HOME` replaced by `home`; unchanged if there is no home."""
    for prefix in ("~", "$HOME"):
        if home and (path == prefix or path.startswith(prefix + "/")):
            return home + path[len(prefix) :]
    return path


class Roots:
    """The directories of a session, and single files elsewhere that it may use as well."""

    def __init__(self, cwd: str, additional: Iterable[str] = (), files: Iterable[Path] = ()) -> None:
        self.cwd = Path(cwd)
        self._roots = [Path(os.path.realpath(root)) for root in (cwd, *additional)]
        self._files = {Path(os.path.realpath(file)) for file in files}

    def resolve(self, path: str) -> Path:
        """Return the real path. Raises ToolError if it is outside the roots."""
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

    def hold(self, path: str | Path) -> bool:
        """Return whether a path is inside the roots, with links resolved."""
        try:
            self.resolve(str(path))
        except ToolError:
            return False
        return True

    def is_plan(self, path: Path) -> bool:
        """Return whether this is the session's plan file, the one file that is allowed by itself."""
        return path in self._files

    def shown(self, path: Path) -> str:
        """Return the path for a user, relative to the working directory if it lies below."""
        base = self._roots[0]
        if path != base and path.is_relative_to(base):
            path = path.relative_to(base)
        return str(path)
