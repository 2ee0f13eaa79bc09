"""Secrets that an installation generates: one per file, readable by its owner only."""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path


def obtain(path: Path) -> str:
    """The secret in `path`, generated on first use; concurrent processes get the same one."""
    with suppress(FileNotFoundError):
        return path.read_text().strip()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=path.parent)  # mode 0600
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(48) + "\n")
    with suppress(FileExistsError):
        os.link(draft, path)  # atomic, and the first one wins
    Path(draft).unlink()
    return path.read_text().strip()
