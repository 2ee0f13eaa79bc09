"""A model's family and heads by its files, where this host has them: on its disk or in the hub's cache."""

from __future__ import annotations

import json
import os
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

CONFIG = "config.json"
MAX_BYTES = 4 << 20


class Heads(NamedTuple):
    file: Path
    heads: int
    kv_heads: int


class FamilyName(NamedTuple):
    file: Path
    model_type: str


def family_of(source: str) -> FamilyName | None:
    """The family of the model, or of its part for text; None where its files are elsewhere or do not tell."""
    file = _file(source)
    config = _read(file) if file else {}
    text = config.get("text_config")
    found = (text if isinstance(text, dict) else config).get("model_type")
    return FamilyName(file, found) if file and isinstance(found, str) else None


def heads_of(source: str) -> Heads | None:
    """The heads of the model's attention; None where its files are elsewhere or do not tell."""
    file = _file(source)
    config = _read(file) if file else {}
    text = config.get("text_config")
    for found in (config, text if isinstance(text, dict) else {}):
        heads = _count(found.get("num_attention_heads"))
        if file and heads:
            return Heads(file, heads, _count(found.get("num_key_value_heads")) or heads)
    return None


def _file(source: str) -> Path | None:
    local = Path(source).expanduser() / CONFIG
    if local.is_file():
        return local
    home = os.environ.get("HF_HOME") or str(Path("~/.cache/huggingface").expanduser())
    cache = Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub")
    snapshots = cache.glob(f"models--{escape(source.replace('/', '--'))}/snapshots/*/{CONFIG}")
    return next(iter(sorted(snapshots)), None)


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as content:
            found = json.loads(content.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _count(value: object) -> int:
    """A positive whole number; 0 for anything else."""
    return value if type(value) is int and value > 0 else 0
