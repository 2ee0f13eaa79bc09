"""Small files that several agents share. A write replaces the whole file, so no reader sees half of one."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def replace_text(path: Path, text: str) -> None:
    """Replace the file in one step. Its directory must exist. Raises OSError."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        file.write(text)
    Path(file.name).replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in the file; an empty one when the file is missing or damaged."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def update_json(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Write what `change` makes of the object in the file. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = change(read_json(path))
    replace_text(path, json.dumps(content, indent=1, sort_keys=True))
