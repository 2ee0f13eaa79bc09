"""Embeddings equal those of transformers for one input at a time, without padding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch.nn.functional import cosine_similarity

from neuron.device.embedding_runner import EmbeddingRunner
from neuron.engine.embedding_scheduler import EmbeddingScheduler
from neuron.engine.scheduler_limits import SchedulerLimits
from neuron.models.checkpoint import ModelLoadError
from neuron.models.embedder import Embedder, load_embedder
from neuron.models.reading import read_checkpoint
from neuron.models.sentence_modules import (
    Embedding,
    Normalize,
    Pooling,
    is_bare_encoder,
    read_sentence_modules,
    sentence_warnings,
)
from neuron.models.weights import LoadOptions
from neuron.pipe import Embed, Embedded, Refused
from neuron.step import EmbeddingPlan, EncodedText
from tests.device.zoo import VOCAB, save

MODES = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "last": "pooling_mode_lasttoken",
    "max": "pooling_mode_max_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
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
    modules = read_sentence_modules(read_checkpoint(path))
    assert isinstance(modules, Embedding)
    options = LoadOptions(torch.float32, torch.device("cpu"), on_progress=lambda _: None)
    return load_embedder(read_checkpoint(path), modules, options)


def vectors(loaded: Embedder, inputs: list[list[int]]) -> list[torch.Tensor]:
    rows = loaded.run(EmbeddingPlan(tuple(EncodedText(tuple(tokens)) for tokens in inputs)))
    return [torch.frombuffer(bytearray(row), dtype=torch.float32) for row in rows]


@torch.inference_mode()
def plain(path: Path, mode: str, tokens: list[int], *, normalize: bool) -> torch.Tensor:
    model = transformers.AutoModel.from_pretrained(path, dtype=torch.float32).eval()
    hidden = model(input_ids=torch.tensor([tokens])).last_hidden_state[0]
    weights = torch.arange(1, len(hidden) + 1) / torch.arange(1, len(hidden) + 1).sum()
    pooled = {"cls": hidden[0], "last": hidden[-1], "mean": hidden.mean(dim=0), "max": hidden.amax(dim=0)}
    vector = (pooled | {"weightedmean": weights @ hidden})[mode]
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
        ("modules.json", '[{"type": "x.WordWeights", "path": "2_WordWeights"}]', "WordWeights"),
        ("modules.json", '[{"type": "x.SpladePooling", "path": "1"}]', "SPLADE"),
        ("modules.json", '[{"type": "pylate.models.Dense.Dense", "path": "1"}]', "ColBERT"),
        ("1_Pooling/config.json", "{}", "at least one"),
        ("1_Pooling/config.json", '{"pooling_mode": "median"}', "at least one"),
    ],
)
def test_unsupported_pooling_is_refused_with_file_and_cause(tmp_path, file, text, cause):
    path = describe(encoder(tmp_path / "m"), "mean")
    (path / file).parent.mkdir(exist_ok=True)
    (path / file).write_text(text)
    with pytest.raises(ModelLoadError, match=cause) as caught:
        embedder(path)
    assert str(path / file) in caught.value.message


def test_colbert_is_refused_by_the_name_of_its_class(tmp_path):
    path = encoder(tmp_path / "m")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"architectures": ["HF_ColBERT"]}))
    with pytest.raises(ModelLoadError, match="ColBERT makes a vector of each token"):
        read_sentence_modules(read_checkpoint(path))


def test_a_newer_pooling_config_names_the_mode(tmp_path):
    path = describe(encoder(tmp_path / "m"), "mean", normalize=True)
    (path / "1_Pooling" / "config.json").write_text('{"pooling_mode": ["lasttoken", "max"]}')
    assert read_sentence_modules(read_checkpoint(path)) == Embedding(
        Pooling(("lasttoken", "max")), (Normalize(),)
    )


def scheduler(**limits: Any) -> EmbeddingScheduler:
    bounds = SchedulerLimits(**{"max_running": 2, "step_tokens": 16} | limits)
    return EmbeddingScheduler("m", context=10, vocab_size=VOCAB, limits=bounds)


def drain(engine: EmbeddingScheduler) -> list[Embedded]:
    done: list[Embedded] = []
    while plan := engine.plan():
        width = max(len(text.tokens) for text in plan.inputs)
        assert len(plan.inputs) == 1 or width * len(plan.inputs) <= 16
        done += engine.apply(plan, [bytes(text.tokens) for text in plan.inputs], 0.1)
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


def test_a_long_step_takes_turns_and_outlives_the_requests_that_leave_it():
    engine = scheduler(step_tokens=4)
    assert engine.submit(Embed(1, "m", [[1] * 9]), 0.0) is None
    assert engine.submit(Embed(2, "m", [[2]]), 0.0) is None
    first = engine.plan(0.02)
    assert first == EmbeddingPlan((EncodedText((1,) * 9),), 0.02)
    assert engine.apply(first, None, 0.1) == []
    again = engine.plan()
    assert again.inputs is first.inputs
    assert again.seconds > 0.02
    assert engine.apply(again, None, 0.1) == []
    assert engine.cancel(1)
    assert [text.tokens for text in engine.plan().inputs] == [(2,)]
    assert engine.apply(engine.plan(0.02), None, 0.1) == []
    assert engine.cancel(2)
    assert engine.has_work  # the device is to be told
    assert engine.plan() == EmbeddingPlan(())
    assert engine.apply(EmbeddingPlan(()), [], 0.0) == []
    assert not engine.has_work


def test_vectors_that_take_many_turns_are_the_same(tmp_path):
    loaded = embedder(describe(encoder(tmp_path / "m"), "mean"))
    runner = EmbeddingRunner(loaded)
    inputs = tuple(EncodedText(tuple(tokens)) for tokens in INPUTS)
    turns = 1
    assert runner.run(EmbeddingPlan(inputs[:1], 0.0)) is None  # and is given up
    while (vectors := runner.run(EmbeddingPlan(inputs, 0.0))) is None:
        turns += 1
    assert turns > 20
    assert vectors == loaded.run(EmbeddingPlan(inputs))


def test_layers_after_pooling_are_those_of_sentence_transformers(tmp_path):
    """Dense layers with bias, activation and residual, as EmbeddingGemma has two of, and a norm."""
    path = describe(encoder(tmp_path / "m"), "mean", normalize=True)
    torch.manual_seed(5)
    dense, norm = torch.nn.Linear(32, 24), torch.nn.LayerNorm(24)
    for folder, layer, config in (
        ("2_Dense", {"linear.weight": dense.weight, "linear.bias": dense.bias}, DENSE),
        ("3_LayerNorm", {"norm.weight": norm.weight, "norm.bias": norm.bias}, {"dimension": 24}),
    ):
        (path / folder).mkdir()
        save_file(layer, path / folder / "model.safetensors")
        (path / folder / "config.json").write_text(json.dumps(config))
    modules = json.loads((path / "modules.json").read_text())
    kinds = [("2_Dense", "Dense"), ("3_LayerNorm", "LayerNorm")]
    modules[2:2] = [
        {"path": folder, "type": f"sentence_transformers.models.{kind}"} for folder, kind in kinds
    ]
    (path / "modules.json").write_text(json.dumps(modules))
    (made,) = vectors(embedder(path), [INPUTS[1]])
    with torch.inference_mode():
        wanted = norm(torch.tanh(dense(plain(path, "mean", INPUTS[1], normalize=False))))
    assert torch.allclose(made, wanted / wanted.norm(), atol=2e-5)
    save_file({"linear.weight": dense.weight}, path / "2_Dense" / "model.safetensors")
    with pytest.raises(ModelLoadError, match=r"2_Dense.*does not fit") as caught:
        embedder(path)
    assert caught.value.code == "model_broken"


DENSE = {"in_features": 32, "out_features": 24, "activation_function": "torch.nn.modules.activation.Tanh"}


def test_a_bare_encoder_embeds_by_the_mean_and_says_so(tmp_path):
    path = encoder(tmp_path / "m")
    (made,) = vectors(embedder(path), [INPUTS[0]])
    assert torch.allclose(made, plain(path, "mean", INPUTS[0], normalize=False), atol=2e-5)
    assert "modules.json" in sentence_warnings(path)[0]
    describe(path, "mean")
    assert sentence_warnings(path) == []


def test_prompts_may_be_left_out_of_the_mean(tmp_path):
    path = describe(encoder(tmp_path / "m"), "mean")
    file = path / "1_Pooling" / "config.json"
    file.write_text(json.dumps({"pooling_mode": "mean", "include_prompt": False}))
    (row,) = embedder(path).run(EmbeddingPlan((EncodedText((5, 6, 7, 8), num_prompt=2),)))
    model = transformers.AutoModel.from_pretrained(path, dtype=torch.float32).eval()
    with torch.inference_mode():
        wanted = model(input_ids=torch.tensor([[5, 6, 7, 8]])).last_hidden_state[0, 2:].mean(dim=0)
    assert torch.allclose(torch.frombuffer(bytearray(row), dtype=torch.float32), wanted, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "makes_embeddings"),
    {
        "BertModel": True,
        "BertForMaskedLM": True,
        "GPT2LMHeadModel": False,
        "GPT2DoubleHeadsModel": False,
        "OpenAIGPTLMHeadModel": False,
        "LlamaForCausalLM": False,
    }.items(),
)
def test_a_model_with_a_head_that_writes_makes_no_embeddings(name: str, *, makes_embeddings: bool):
    assert is_bare_encoder({"architectures": [name]}) == makes_embeddings
