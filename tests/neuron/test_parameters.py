"""The table in PARAMETERS.md against the code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

import neuron.api
from neuron.api.bodies import chat, completion, embedding
from neuron.wire import ApiError

TABLE = Path(neuron.api.__file__).parent / "PARAMETERS.md"
BODIES = {
    "chat": (chat.ChatBody, chat.decode, {"messages": [{"role": "user", "content": "x"}]}),
    "completions": (completion.CompletionBody, completion.decode, {"prompt": "x"}),
    "embeddings": (embedding.EmbeddingBody, embedding.decode, {"input": "x"}),
}
# a value with a meaning for each tolerated parameter
EXAMPLES: dict[str, Any] = {
    "user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "flex", "prompt_cache_key": "k",
    "prompt_cache_retention": "24h", "prompt_cache_options": {"ttl": "30m"}, "safety_identifier": "s",
    "verbosity": "low", "prediction": {"type": "content", "content": "x"},
}  # fmt: skip
REFUSED: dict[str, Any] = {
    "best_of": 5, "suffix": "s", "modalities": ["audio"], "audio": {"voice": "x"},
    "functions": [{"name": "f"}], "function_call": "auto", "web_search_options": {},
}  # fmt: skip


def table() -> dict[str, dict[str, str]]:
    rows = [
        line.strip("| ").split(" | ") for line in TABLE.read_text().splitlines() if line.startswith("| `")
    ]
    return {row[0].strip("`"): dict(zip(BODIES, row[1:4], strict=True)) for row in rows}


ROWS = table()


@pytest.mark.parametrize("endpoint", BODIES)
def test_every_parameter_has_a_row_in_the_table(endpoint):
    body, _, _ = BODIES[endpoint]
    known = {field.name for field in msgspec.structs.fields(body)}
    assert {name for name, row in ROWS.items() if row[endpoint] != "–"} == known


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [(endpoint, name) for endpoint in BODIES for name, row in ROWS.items() if row[endpoint] != "–"],
)
def test_parameters_are_tolerated_or_refused_as_the_table_says(endpoint, name):
    _, decode, valid = BODIES[endpoint]
    word = ROWS[name][endpoint]
    assert word in {"honoured", "tolerated", "refused"}
    if word == "tolerated":
        decode(json.dumps({"model": "m"} | valid | {name: EXAMPLES[name]}).encode())
    if word == "refused":
        with pytest.raises(ApiError) as caught:
            decode(json.dumps({"model": "m"} | valid | {name: REFUSED[name]}).encode())
        assert (caught.value.status, caught.value.param) == (400, name)
