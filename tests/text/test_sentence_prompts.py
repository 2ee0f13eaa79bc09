"""Prompts by task, as sentence-transformers stores them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neuron.text.sentence_prompts import FILE, SentencePrompts, read_prompts


@pytest.mark.parametrize(
    ("stored", "by_task", "default"),
    [
        ({"prompts": {"query": "q: ", "other": 3}}, {"query": "q: "}, ""),
        ({"prompts": {"query": "q: "}, "default_prompt_name": "query"}, {"query": "q: "}, "q: "),
        ({"prompts": {"query": "q: "}, "default_prompt_name": "x"}, {"query": "q: "}, ""),
        ({"prompts": []}, {}, ""),
    ],
)
def test_prompts_and_the_default_one(tmp_path: Path, stored: Any, by_task: dict[str, str], default: str):
    (tmp_path / FILE).write_text(json.dumps(stored))
    assert read_prompts(tmp_path) == SentencePrompts(by_task, default)


@pytest.mark.parametrize("text", ["[]", "{", ""])
def test_what_is_no_object_is_refused(tmp_path: Path, text: str):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ValueError):  # noqa: PT011 - the reader of the directory names the file
        read_prompts(tmp_path)


def test_a_directory_without_the_file_has_none(tmp_path: Path):
    assert read_prompts(tmp_path) == SentencePrompts()
