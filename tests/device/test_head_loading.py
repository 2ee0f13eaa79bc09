"""A model with a multi-token head is loaded with it or without, and a head that does not fit is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from neuron.models.checkpoint import ModelLoadError
from neuron.models.multi_token import choose_head, find_head, with_head
from neuron.models.reading import read_checkpoint
from neuron.worker.draft_pair import head_wish
from neuron.worker.model_pool import ModelPool, WorkerSettings
from tests.device.heads import LAYERS, save_with_head
from tests.device.test_draft_pair import answer, load
from tests.device.zoo import save


@pytest.fixture
def pool() -> ModelPool:
    return ModelPool(torch.device("cpu"), WorkerSettings(kv_mb=1, kv_host_mb=1))


@pytest.fixture(params=["qwen3_next", "deepseek_v3"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return save_with_head(tmp_path / "m", request.param, surely=True)


def test_a_head_drafts_asleep_and_awake(pool: ModelPool, path: Path):
    plain = load(pool, path, speculation="off")
    assert plain.loaded.head is None
    expected = answer(plain)
    pool.unload("m")
    resident = load(pool, path)
    assert resident.loaded.head
    parts = resident.memory_parts
    assert parts["draft"] > 0
    with_it, alone = resident.loaded.estimate, plain.loaded.estimate
    assert with_it
    assert alone
    assert with_it.weights - resident.loaded.head_bytes == alone.weights
    assert with_it.cache > alone.cache
    assert answer(resident) == expected
    status = resident.scheduler.status()
    assert status.accepted == status.drafted > 15
    unloaded = pool.unload("m")
    assert unloaded
    assert pool.asleep.put("m", unloaded.loaded, 0)
    again = load(pool, path)
    assert again.loaded is unloaded.loaded
    assert answer(again) == expected
    assert again.scheduler.status().accepted > 15
    asleep = pool.unload("m")
    assert asleep
    assert pool.asleep.put("m", asleep.loaded, 0)
    assert load(pool, path, speculation="ngram").loaded.head is None


def test_a_head_takes_room_in_every_page(pool: ModelPool, path: Path):
    plain = load(pool, path, speculation="ngram").runner.shape
    pool.unload("m")
    assert load(pool, path, speculation="mtp").runner.shape.num_pages < plain.num_pages


def test_a_quantized_model_keeps_its_head(pool: ModelPool, path: Path):
    expected = answer(load(pool, path, speculation="off", quant="q8_0"))
    pool.unload("m")
    resident = load(pool, path, speculation="mtp", quant="q8_0")
    assert resident.loaded.stored[0] == "q8_0"
    assert answer(resident) == expected
    status = resident.scheduler.status()
    assert status.accepted == status.drafted > 15


def changed(path: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    return path


NARROW, MORE = torch.zeros(3), torch.zeros(4, 4)
MISFITS = {
    "qwen3_next": [
        (lambda t: t.pop("mtp.fc.weight"), "the multi-token head lacks mtp.fc.weight (1 such tensors)"),
        (lambda t: t.update({"mtp.norm.weight": NARROW}), "mtp.norm.weight has shape [3] instead of [64]"),
        (
            lambda t: t.update({"mtp.layers.0.self_attn.sinks": MORE}),
            "mtp.layers.0.self_attn.sinks has no place in a multi-token head",
        ),
        (
            lambda t: t.update({"mtp.layers.0.mlp.gate.weight": MORE}),
            "mtp.layers.0.mlp.gate.weight has shape [4, 4] instead of [4, 64]",
        ),
    ],
    "glm4_moe": [
        (
            lambda t: t.pop(f"model.layers.{LAYERS}.hnorm.weight"),
            f"the multi-token head lacks model.layers.{LAYERS}.hnorm.weight",
        ),
    ],
}


@pytest.mark.parametrize(
    ("family", "change", "cause"),
    [(family, *case) for family, cases in MISFITS.items() for case in cases],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_head_that_does_not_fit_is_named(
    pool: ModelPool, tmp_path: Path, caplog: pytest.LogCaptureFixture, family: str, change: Any, cause: str
):
    """It is refused where it was asked for, and left out where it was not."""
    path = changed(save_with_head(tmp_path / "m", family), change)
    with pytest.raises(ModelLoadError) as caught:
        load(pool, path, speculation="mtp")
    assert caught.value.code == "model_unsupported"
    assert cause in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.message.endswith("set speculation to 'ngram' to load the model without it")
    assert not pool.models
    resident = load(pool, path)
    assert resident.loaded.head is None
    left_out = [record for record in caplog.records if "left out" in record.message]
    assert cause in left_out[0].__dict__["cause"]
    assert answer(resident)


def test_a_model_without_a_head_has_none_to_draft_with(pool: ModelPool, tmp_path: Path):
    for family in ("llama", "deepseek_v3"):
        path = save(tmp_path / family, family)
        with pytest.raises(ModelLoadError, match="have no multi-token head"):
            load(pool, path, speculation="mtp")
        assert load(pool, path).loaded.head is None
        pool.unload("m")


def test_a_draft_model_takes_the_place_of_a_head(path: Path):
    for wish in ("mtp", "auto", "ngram"):
        assert head_wish(wish, path) is None
    assert [head_wish(wish, None) for wish in ("mtp", "auto", "ngram")] == ["mtp", "auto", None]


def test_a_configuration_that_counts_no_head_has_none(tmp_path: Path):
    path = save_with_head(tmp_path / "m", "deepseek_v3")
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_nextn_predict_layers": 0}))
    assert find_head(read_checkpoint(path)) is None


def test_a_rope_that_our_decoder_does_not_run_leaves_the_head_out(tmp_path: Path):
    path = save_with_head(tmp_path / "m", "deepseek_v3")
    file = path / "config.json"
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rope_parameters": rope}))
    with pytest.raises(ModelLoadError, match=r"config\.json: the deepseek_v3 with its rope_parameters"):
        with_head(read_checkpoint(path))


def test_the_head_of_a_model_that_sees_is_named_apart_from_its_text(tmp_path: Path):
    """Qwen3.5 has its text's layers below `model.language_model`, and its head at the top."""
    text = read_checkpoint(save_with_head(tmp_path / "m", "qwen3_5_text"))
    inner = "model.language_model."
    tensors = {
        inner + name.removeprefix("model.") if name.startswith("model.") else name: entry
        for name, entry in text.tensors.items()
    }
    config = {"model_type": "qwen3_5", "text_config": text.config, "tie_word_embeddings": False}
    found = with_head(replace(text, tensors=tensors, config=config))
    assert f"{inner}layers.{LAYERS}.self_attn.q_proj.weight" in found.tensors
    assert found.config["text_config"]["num_hidden_layers"] == LAYERS + 1
    assert found.config["text_config"]["layer_types"][LAYERS:] == ["full_attention"]
    assert not any(name.startswith("mtp.") for name in choose_head(found, None).tensors)
