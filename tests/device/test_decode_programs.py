"""Decode steps that are replayed in C give the texts of steps that are not."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from ext import matmul
from neuron.device import row_steps
from neuron.device.decode_programs import DecodePrograms
from neuron.device.page_pool import CODINGS
from neuron.models.decoder import AnyDecoder
from neuron.models.fused.decoder import FusedDecoder
from neuron.models.fused.rotation import Rotary
from neuron.models.reading import read_checkpoint
from neuron.pipe import Sampling
from neuron.step import CacheShape
from tests.device.serving import Serving, check_preemption, decoder, prompt
from tests.device.stored import load, q8_0, stored
from tests.device.zoo import save

pytestmark = pytest.mark.skipif(matmul.load() is None, reason="ext.matmul is not built")

WIDE = {"head_dim": 16}
WINDOWS = {
    "use_sliding_window": True,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
MIXTURES = (
    *("dots1", "glm4_moe", "hy_v3", "mixtral", "qwen2_moe", "qwen3_5_moe_text", "qwen3_moe", "qwen3_next"),
    *("solar_open", "gpt_oss", "minimax_m2", "olmoe", "lfm2_moe"),
)
KINDS: list[tuple[str, dict[str, Any], str]] = [
    ("llama", WIDE | {"attention_bias": True, "mlp_bias": True}, "float32"),
    ("llama", WIDE | {"num_key_value_heads": 1}, "bfloat16"),
    ("qwen3", WIDE, "float32"),
    ("qwen3", WIDE | WINDOWS, "bfloat16"),
    ("qwen3_5_text", WIDE, "float32"),
    ("qwen3_5_text", WIDE, "bfloat16"),
    *((family, WIDE, "float32") for family in MIXTURES),
    ("qwen3_moe", WIDE, "bfloat16"),
    ("gpt_oss", WIDE, "bfloat16"),
    ("lfm2", WIDE, "bfloat16"),
]
PROMPTS = {number: prompt(number, length) for number, length in enumerate((1, 5, 30, 61))}


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind[0]}, {kind[2]}, {len(kind[1])}")
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AnyDecoder:
    family, changes, dtype = request.param
    return decoder(save(tmp_path_factory.mktemp("model"), family, **changes), dtype)


def texts(loaded: AnyDecoder, *, replays: bool, sampling: Sampling = Sampling()) -> dict[int, list[int]]:  # noqa: B008
    serving = Serving(loaded)
    assert isinstance(serving.runner._graphs, DecodePrograms)
    if not replays:
        serving.runner._graphs = None
    for number, tokens in PROMPTS.items():
        serving.submit(number, tokens, sampling, max_tokens=10 + 10 * number)  # batches of all sizes
    return serving.drain()


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, seed=1, top_p=0.9)])
def test_texts_are_the_same(loaded: AnyDecoder, sampling: Sampling, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "neuron.device"):
        replayed = texts(loaded, replays=True, sampling=sampling)
    assert not caplog.records
    if loaded.dtype is torch.float32:
        assert replayed == texts(loaded, replays=False, sampling=sampling)
    assert {number: len(tokens) for number, tokens in replayed.items()} == {0: 10, 1: 20, 2: 30, 3: 40}


def test_a_replay_runs_no_layer_of_torch(loaded: AnyDecoder):
    serving = Serving(loaded)
    serving.submit(0, PROMPTS[1])
    for _ in range(3):
        serving.step()
    with Counting() as counting:
        serving.step()
    assert counting.count < 40


class Counting(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_a_preemption_does_not_change_a_text(loaded: AnyDecoder):
    if loaded.dtype is not torch.float32:
        pytest.skip("a prompt's keys are rounded otherwise than a token's")
    check_preemption(loaded, CacheShape(num_pages=20, page_size=8, num_slots=8, context=128))


def test_a_step_with_an_operation_of_torch_is_not_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    loaded = decoder(save(tmp_path, "qwen3", **WIDE))
    wanted = texts(loaded, replays=False)
    monkeypatch.setattr(row_steps, "add", lambda x, to: to.add_(x))
    assert texts(loaded, replays=True) == wanted
    assert [record.message for record in caplog.records] == ["decode steps cannot be recorded"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embeddings_that_are_stored_as_blocks_are_looked_up_in_c(tmp_path: Path, dtype: torch.dtype):
    checkpoint = read_checkpoint(save(tmp_path, "qwen3", **WIDE))
    loaded = load(stored(checkpoint, {"embed_tokens": q8_0})[0], dtype=dtype)
    assert isinstance(loaded, FusedDecoder)
    assert loaded.embeds
    assert texts(loaded, replays=True) == texts(loaded, replays=False)


def test_other_embeddings_are_looked_up_before(tmp_path: Path):
    loaded = decoder(save(tmp_path, "qwen3", **WIDE))
    assert isinstance(loaded, FusedDecoder)
    assert loaded.embeds
    wanted = texts(loaded, replays=True)
    loaded.embeds = False
    assert texts(loaded, replays=True) == wanted


@pytest.mark.parametrize("context", [700, 4000])
def test_angles_are_those_of_the_module(context: int):
    config = transformers.LlamaConfig(hidden_size=64, num_attention_heads=4)
    module = LlamaRotaryEmbedding(config)
    rotary = Rotary(module, torch.float32, torch.device("cpu"), context)
    positions = torch.tensor([3, 0, 690])
    assert all(map(torch.equal, rotary(positions), rotary._computed(positions)))
    assert rotary.keeps(context - 1)
    assert not rotary.keeps(context)
    positions = torch.tensor([context - 1, 511, 512, context // 2])
    assert all(map(torch.equal, rotary.kept(positions), rotary._computed(positions)))
    beyond = torch.tensor([context])
    assert all(map(torch.equal, rotary(beyond), rotary._computed(beyond)))


@pytest.mark.parametrize("family", ["bamba", "deepseek_v3", "qwen3"])
def test_others_run_as_before(family: str, tmp_path: Path):
    narrow = {"head_dim": 8} if family == "qwen3" else {}
    serving = Serving(decoder(save(tmp_path, family, **narrow)))
    assert serving.runner._graphs is None


def test_codes_are_written_as_before(tmp_path: Path):
    serving = Serving(decoder(save(tmp_path, "qwen3", **WIDE)), coding=CODINGS["int8"])
    assert serving.runner._graphs is None
