"""The instructions that an embedding model expects before texts, as sentence-transformers stores them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

FILE = "config_sentence_transformers.json"


@dataclass(frozen=True, slots=True)
class SentencePrompts:
    """Prompts by task, such as `query` and `document`, and the one for texts of no stated task."""

    by_task: Mapping[str, str] = field(default_factory=dict)
    default: str = ""


def read_prompts(directory: Path) -> SentencePrompts:
    """Return what a directory says, which is nothing where it has no such file. Raises ValueError."""
    file = directory / FILE
    if not file.is_file():
        return SentencePrompts()
    config = json.loads(file.read_bytes())
    if not isinstance(config, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - of a stranger's file
    named = config.get("prompts")
    prompts = named if isinstance(named, dict) else {}
    by_task = {str(task): prompt for task, prompt in prompts.items() if isinstance(prompt, str)}
    return SentencePrompts(by_task, by_task.get(str(config.get("default_prompt_name")), ""))
