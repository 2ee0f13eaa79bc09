"""Embeddings equal those of transformers for one input at a time, without padding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.nn.functional import cosine_similarity

from neuron.engine.embedding_scheduler import EmbeddingScheduler
from neuron.engine.scheduler_limits import SchedulerLimits
from neuron.models.checkpoint import ModelLoadError
from neuron.models.embedder import Embedder, load_embedder
from neuron.models.pooling import Pooling, read_pooling
from neuron.models.reading import read_checkpoint
from neuron.models.weights import LoadOptions
from neuron.pipe import Embed, Embedded, Refused
from neuron.step import EmbeddingPlan
from tests.device.zoo import VOCAB, save

MODES = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "last": "pooling_mode_lasttoken",
}
INPUTS = [[5, 6, 7], list(range(3, 40)), [9], [5, 6, 7]]


def encoder(path: Path, vocab_size: int = VOCAB) -> Path:
    torch.manual_seed(3)
    config = transformers.BertConfig(
        vocab_size=vocab_size, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=64,
    )  # fmt: skip
    transformers.logging.disable_progress_bar()
    transformers.BertModel(config).save_pretrained(path)
    return path


def describe(path: Path, mode: str, *, normalize: bool = False, bound: int | None = None) -> Path:
    modules = [
        ("", "Transformer"),
        ("1_Pooling", "Pooling"),
        *([("2_Normalize", "Normalize")] if normalize else []),
    ]
    listed = [{"path": folder, "type": f"sentence_transformers.models.{kind}"} for folder, kind in modules]
    (path / "modules.json").write_text(json.dumps(listed))
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text(
        json.dumps({flag: flag == MODES[mode] for flag in MODES.values()})
    )
    if bound:
        (path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": bound}))
    return path


def embedder(path: Path) -> Embedder:
    pooling = read_pooling(path)
    assert pooling
    options = LoadOptions(torch.float32, torch.device("cpu"), on_progress=lambda _: None)
    return load_embedder(read_checkpoint(path), pooling, options)


def vectors(loaded: Embedder, inputs: list[list[int]]) -> list[torch.Tensor]:
    rows = loaded.run(EmbeddingPlan(tuple(map(tuple, inputs))))
    return [torch.frombuffer(bytearray(row), dtype=torch.float32) for row in rows]


@torch.inference_mode()
def plain(path: Path, mode: str, tokens: list[int], *, normalize: bool) -> torch.Tensor:
    model = transformers.AutoModel.from_pretrained(path, dtype=torch.float32).eval()
    hidden = model(input_ids=torch.tensor([tokens])).last_hidden_state[0]
    vector = {"cls": hidden[0], "last": hidden[-1], "mean": hidden.mean(dim=0)}[mode]
    return vector / vector.norm() if normalize else vector


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", ["bert", "qwen3"])
@pytest.mark.parametrize("normalize", [False, True])
def test_vectors_equal_transformers(tmp_path, family, mode, normalize):
    path = encoder(tmp_path / "m") if family == "bert" else save(tmp_path / "m", "qwen3")
    describe(path, mode, normalize=normalize)
    made = vectors(embedder(path), INPUTS)
    for tokens, vector in zip(INPUTS, made, strict=True):
        wanted = plain(path, mode, tokens, normalize=normalize)
        assert torch.allclose(vector, wanted, atol=2e-5)
        assert cosine_similarity(vector, wanted, dim=0) > 0.99999


def test_the_directory_limits_the_input_length(tmp_path):
    path = describe(encoder(tmp_path / "m"), "mean", bound=20)
    assert embedder(path).shape.context == 20
    (path / "sentence_bert_config.json").unlink()
    assert embedder(path).shape.context == 64


@pytest.mark.parametrize(
    ("file", "text", "cause"),
    [
        ("modules.json", "{", "JSON"),
        ("modules.json", "{}", "list of modules"),
        ("modules.json", "[]", "no pooling"),
        ("modules.json", '[{"type": "x.Dense", "path": "2_Dense"}]', "Dense"),
        ("1_Pooling/config.json", "{}", "exactly one"),
        ("1_Pooling/config.json", '{"pooling_mode_max_tokens": true}', "exactly one"),
        (
            "1_Pooling/config.json",
            '{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}',
            "exactly one",
        ),
    ],
)
def test_unsupported_pooling_is_refused_with_file_and_cause(tmp_path, file, text, cause):
    (tmp_path / "m").mkdir()
    path = describe(tmp_path / "m", "mean")
    (path / file).write_text(text)
    with pytest.raises(ModelLoadError, match=cause) as caught:
        read_pooling(path)
    assert str(path / file) in caught.value.message


def test_a_newer_pooling_config_names_the_mode(tmp_path):
    (tmp_path / "m").mkdir()
    path = describe(tmp_path / "m", "mean", normalize=True)
    (path / "1_Pooling" / "config.json").write_text('{"pooling_mode": "lasttoken"}')
    assert read_pooling(path) == Pooling("last", normalize=True, max_tokens=None)


def scheduler(**limits: Any) -> EmbeddingScheduler:
    bounds = SchedulerLimits(**{"max_running": 2, "step_tokens": 16} | limits)
    return EmbeddingScheduler("m", context=10, vocab_size=VOCAB, limits=bounds)


def drain(engine: EmbeddingScheduler) -> list[Embedded]:
    done: list[Embedded] = []
    while plan := engine.plan():
        width = max(map(len, plan.inputs))
        assert len(plan.inputs) == 1 or width * len(plan.inputs) <= 16
        done += engine.apply(plan, [bytes(tokens) for tokens in plan.inputs], 0.1)
    assert not engine.has_work
    return done


def test_inputs_are_packed_into_steps_and_answered_in_order():
    engine = scheduler()
    inputs = [[1, 2, 3], [4] * 10, [5], [6, 7], [8] * 9]
    assert engine.submit(Embed(1, "m", inputs), 0.0) is None
    assert engine.submit(Embed(2, "m", [[9]]), 0.0) is None
    assert drain(engine) == [
        Embedded(1, b"".join(map(bytes, inputs))),
        Embedded(2, bytes([9])),
    ]


def test_embedding_requests_are_checked_bounded_and_expire():
    engine = scheduler(max_waiting=1)
    for number, wrong in enumerate([[[]], [[1] * 11], [[VOCAB]], [[-1]]]):
        refused = engine.submit(Embed(number, "m", wrong), 0.0)
        assert isinstance(refused, Refused)
        assert refused.status == 400
    assert [engine.submit(Embed(number, "m", [[1]]), 0.0) is None for number in range(4)] == [True] * 3 + [
        False
    ]
    assert [refused.code for refused in engine.expire(601.0)] == ["queue_timeout"] * 3
    assert engine.status().timed_out == 3
    assert engine.submit(Embed(9, "m", [[1], [2]]), 0.0) is None
    assert engine.cancel(9)
    assert engine.cancel(9) is None
    assert engine.plan() is None
