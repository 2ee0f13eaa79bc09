"""A model and one that drafts for it, loaded together: refused unless they are a pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from neuron.models.checkpoint import ModelLoadError
from neuron.pipe import Finished, Sampling, Submit, Tokens
from neuron.worker.model_pool import ModelPool, WorkerSettings
from neuron.worker.resident_model import ResidentModel
from tests.device.serving import prompt
from tests.device.zoo import save


def saved(path: Path, family: str = "llama", vocab: dict[str, int] | None = None) -> Path:
    """A model with a tokenizer file of which the vocabulary alone counts."""
    save(path, family)
    content = {"model": {"vocab": vocab or {"a": 0, "b": 1}}, "added_tokens": [{"content": "<s>", "id": 2}]}
    (path / "tokenizer.json").write_text(json.dumps(content))
    return path


@pytest.fixture
def pool() -> ModelPool:
    return ModelPool(torch.device("cpu"), WorkerSettings(kv_mb=1, kv_host_mb=1))


def answer(resident: ResidentModel) -> list[int]:
    """The answer to a prompt."""
    scheduler = resident.scheduler
    assert scheduler.submit(Submit(1, "m", prompt(1, 30), 40, Sampling(), []), 0.0) is None
    tokens: list[int] = []
    while True:
        plan = scheduler.plan(0.0)
        for event in scheduler.apply(plan, resident.runner.run(plan), 0.1):
            if isinstance(event, Tokens):
                tokens += event.tokens
            elif isinstance(event, Finished):
                return tokens


def load(pool: ModelPool, path: Path, **options: Any) -> ResidentModel:
    return pool.load("m", path, lambda _: None, **options)


def test_a_pair_answers_asleep_and_awake(pool: ModelPool, tmp_path: Path):
    large, small = saved(tmp_path / "large"), saved(tmp_path / "small")
    plain = load(pool, large, speculation="off")
    expected = answer(plain)
    pool.unload("m")
    resident = load(pool, large, draft=small)
    parts = resident.memory_parts
    assert parts["draft"] == parts["weights"] == plain.memory_parts["weights"]
    assert resident.runner.shape.num_pages < plain.runner.shape.num_pages
    assert resident.needed_bytes > plain.needed_bytes
    assert answer(resident) == expected
    status = resident.scheduler.status()
    assert status.accepted == status.drafted > 20  # the two are the same
    unloaded = pool.unload("m")
    assert unloaded
    assert pool.asleep.put("m", unloaded.loaded, 0)
    again = load(pool, large, draft=small)
    assert again.loaded is unloaded.loaded
    assert answer(again) == expected
    assert pool.asleep.put("m", pool.unload("m").loaded, 0)  # type: ignore[union-attr]
    assert load(pool, large).loaded.draft is None


@pytest.mark.parametrize(
    ("family", "vocab", "cause"),
    [
        ("llama", {"a": 1, "b": 0}, "its vocabulary is not that of"),
        ("qwen3_5_text", None, "it keeps more of a text than keys and values"),
        ("openai-gpt", None, "cannot draft"),
    ],
)
def test_others_are_refused(
    pool: ModelPool, tmp_path: Path, family: str, vocab: dict[str, int] | None, cause: str
):
    large, small = saved(tmp_path / "large"), saved(tmp_path / "small", family, vocab)
    with pytest.raises(ModelLoadError, match=cause) as caught:
        load(pool, large, draft=small)
    assert str(small) in caught.value.message
    assert "name another model in speculation, or 'ngram'" in caught.value.message
    assert not pool.models
    assert answer(load(pool, large))


def test_a_tokenizer_that_cannot_be_compared_is_named(pool: ModelPool, tmp_path: Path):
    large, small = saved(tmp_path / "large"), saved(tmp_path / "small")
    (small / "tokenizer.json").write_text("[]")
    with pytest.raises(ModelLoadError, match=r"tokenizer\.json: names no vocabulary"):
        load(pool, large, draft=small)
    (small / "tokenizer.json").unlink()
    with pytest.raises(ModelLoadError, match=r"tokenizer\.json: cannot be read"):
        load(pool, large, draft=small)
