"""Qwen3-Reranker as it was first released: a decoder that ranks by saying yes or no, of which no file tells.

Its card tells how a pair is shown and which tokens are compared (Zhang et al. 2025). Later releases say the
same in `modules.json` and in a chat template. Imports no torch.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from neuron.models.checkpoint import CONFIG, model_broken

_NAME = re.compile(r"qwen3[-_.]reranker", re.IGNORECASE)
_MODULES, _TOKENIZER = "modules.json", "tokenizer.json"
_WRITES, _HAS_HEAD = "Qwen3ForCausalLM", "Qwen3ForSequenceClassification"  # the latter of converted weights
_TEMPLATE = """\
{%- set said = namespace(query='', document='') -%}
{%- for message in messages -%}
{%- if message.role == 'query' -%}{%- set said.query = message.content -%}
{%- elif message.role == 'document' -%}{%- set said.document = message.content -%}{%- endif -%}
{%- endfor -%}
{{- '<|im_start|>system\\nJudge whether the Document meets the requirements based on the Query and the ' -}}
{{- 'Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\\n<|im_start|>user\\n' -}}
{{- '<Instruct>: Given a web search query, retrieve relevant passages that answer the query\\n' -}}
{{- '<Query>: ' + said.query + '\\n<Document>: ' + said.document -}}
{{- '<|im_end|>\\n<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' -}}
"""


def is_yes_no_ranker(path: Path) -> bool:
    """Return whether a directory's name and class are those of a model that says yes or no of a pair."""
    return _WRITES in _names(path)


def pair_template(path: Path) -> str | None:
    """Return the chat template of pairs for such a directory, or its weights with a head; else None."""
    return _TEMPLATE if {_WRITES, _HAS_HEAD} & set(_names(path)) else None


def answers(path: Path) -> tuple[int, int]:
    """Return the tokens yes and no. Raises ModelLoadError."""
    file = path / _TOKENIZER
    try:
        found = json.loads(file.read_bytes())["model"]["vocab"]
        yes, no = found["yes"], found["no"]
    except (OSError, ValueError, RecursionError, LookupError, TypeError) as error:
        raise model_broken(file, f"a reranker's yes and no are not in its vocabulary: {error!r}") from error
    if not isinstance(yes, int) or not isinstance(no, int):
        raise model_broken(file, "yes and no must have numbers in its vocabulary")
    return yes, no


def _names(path: Path) -> list[Any]:
    """Return the classes of a directory of that name; the hub's cache has it two folders up."""
    if not any(_NAME.search(part) for part in path.parts[-3:]) or (path / _MODULES).is_file():
        return []
    try:
        config = json.loads((path / CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError):  # which the load tells
        return []
    names = config.get("architectures") if isinstance(config, dict) else None
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
