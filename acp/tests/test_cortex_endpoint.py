"""cortex as the endpoint: how it reports the states of its models and the progress of a load."""

from __future__ import annotations

import pytest

from helexa_acp.provider.attempt import _PROGRESS
from helexa_acp.provider.model_list import parse_models


def model(id_: str, state: str, **more: object) -> dict[str, object]:
    """One entry of cortex's `/v1/models`."""
    return {
        "id": id_,
        "object": "model",
        "created": 1_767_225_600,
        "owned_by": "cortex",
        "state": state,
        "nodes": [{"name": "beast", "state": state, "memory_mb": 900, "progress": None, "error": None}],
        "context_length": 40_960,
        "max_model_len": 40_960,
        "capabilities": ["chat", "tools", "reasoning"],
        "pricing": None,
    } | more


def test_states_of_models_become_warm_and_cold():
    states = ("loaded", "loading", "unloading", "available", "failed")
    models = parse_models({"object": "list", "data": [model(state, state) for state in states]})
    assert [(info.id, info.state) for info in models] == [
        ("loaded", "warm"),
        ("loading", "loading"),
        ("unloading", "unloading"),
        ("available", "cold"),
        ("failed", "failed"),
    ]
    assert {info.context_window for info in models} == {40_960}
    assert not any(info.images for info in models)


def test_a_model_that_was_never_loaded_has_no_context_window():
    (info,) = parse_models({"data": [model("m", "available", context_length=None, max_model_len=None)]})
    assert info.context_window is None


def test_aliases_are_listed_and_embedding_models_are_not():
    listed = [
        model("embedder", "loaded", capabilities=["embeddings"]),
        model("helexa-tiny", "loaded"),
        model("tiny", "loaded", alias_of="helexa-tiny"),
    ]
    assert [info.id for info in parse_models({"data": listed})] == ["helexa-tiny", "tiny"]


@pytest.mark.parametrize(
    "comment",
    [
        "queued: waits for room on beast",
        "evicting llama-8b from beast",
        "unloading llama-8b",
        "loading helexa-tiny on local 43 %",
        "loading helexa-tiny on local 43 %, about 5 s left",
        "waiting for helexa-tiny",
    ],
)
def test_comments_on_a_load_are_progress(comment: str):
    assert _PROGRESS.search(comment)


@pytest.mark.parametrize("comment", ["", "keep-alive", "ping"])
def test_keep_alive_comments_are_not_progress(comment: str):
    assert not _PROGRESS.search(comment)
