"""Requests with adapters get the texts of models into which these were merged, side by side with others."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from neuron.engine.drafter import DraftSource, NgramDrafter
from neuron.engine.request import LoadedAdapter
from neuron.models.adapters.adapted_rows import AdaptedRows
from neuron.models.adapters.lora_file import read_adapter
from neuron.models.checkpoint import ModelLoadError
from neuron.models.decoder import AnyDecoder
from neuron.models.fused.decoder import FusedDecoder
from neuron.pipe import Finished
from neuron.worker.model_pool import ModelPool, WorkerSettings
from tests.device.lora import ATTENTION, MLP, merge, save_adapter
from tests.device.serving import Serving, decoder, prompt
from tests.device.zoo import build, save

# Our own decoder's kinds, with queries that bring gates and parts of one module in several places;
# transformers' own layers; a mixture of experts whose attention alone is changed.
KINDS = {"llama": True, "qwen3": False, "qwen3_5_text": True, "qwen3_moe": True, "gemma3_text": False}
PATTERNS = {
    "qwen3_moe": ATTENTION,
    "qwen3_5_text": rf"{ATTENTION}|{MLP}|.*linear_attn\.(out_proj|in_proj_.*)",
}
PROMPTS = {number: prompt(number, 20 + 3 * number) for number in range(4)}
NEW = 16


@pytest.fixture(scope="module", params=KINDS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def generated(model: Any, tokens: list[int]) -> list[int]:
    out = model.generate(
        torch.tensor([tokens]), max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    text: list[int] = out[0, len(tokens) :].tolist()
    return text


def test_texts_are_those_of_merged_models_in_one_batch(family: str, tmp_path: Path):
    pattern = PATTERNS.get(family, f"{ATTENTION}|{MLP}")
    plain = build(family)
    first = save_adapter(tmp_path / "first", plain, 1, pattern=pattern)
    second = save_adapter(
        tmp_path / "second", plain, 2, rank=9, pattern=ATTENTION, lora_alpha=3, use_rslora=True
    )
    wanted = {
        0: generated(plain, PROMPTS[0]),
        1: generated(merge(build(family), first, 2.0), PROMPTS[1]),
        2: generated(merge(build(family), second, 1.0), PROMPTS[2]),
        3: generated(merge(build(family), first, 2.0), PROMPTS[3]),
    }
    loaded = decoder(save(tmp_path / "model", family), fused=KINDS[family])
    assert isinstance(loaded, FusedDecoder) == KINDS[family]
    assert loaded.adapters
    adapters = {}
    for number, path in {1: first, 2: second}.items():
        loaded.adapters.add(read_adapter(path), number)
        adapters[number] = LoadedAdapter(number, bytes([number]))
    serving = Serving(loaded)
    for number, tokens in PROMPTS.items():
        serving.submit(number, tokens, max_tokens=NEW, adapter=adapters.get({3: 1}.get(number, number)))
    answers = serving.drain()
    assert answers == wanted
    assert len({tuple(text) for text in wanted.values()}) == 4


@given(st.lists(st.tuples(st.sampled_from((None, 0, 1, 2)), st.integers(1, 40)), min_size=1, max_size=8))
def test_each_row_is_taken_and_added_to_by_its_own_adapter(runs: list[tuple[int | None, int]]):
    assume(any(number is not None for number, _ in runs))
    adapters = [number for number, count in runs for _ in range(count)]
    rows = AdaptedRows(adapters, 4, torch.device("cpu"))
    x = torch.arange(len(adapters) * 3, dtype=torch.float32).view(-1, 3)
    places = sorted((row for row, at in enumerate(adapters) if at is not None), key=lambda row: adapters[row])
    taken = rows.take(x)
    assert torch.equal(taken, x[places])
    added = taken * (1 + rows.groups.experts[:, None])
    factors = torch.tensor([1 if at is None else 2 + at for at in adapters])
    assert torch.equal(rows.add(added, x.clone()), x * factors[:, None])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("base") / "model", "llama")


@pytest.fixture
def loaded(base: Path) -> AnyDecoder:
    return decoder(base)


def test_drafts_and_stored_weights_go_with_adapters(base: Path, tmp_path: Path):
    """On a quantized base, an answer with drafts in a batch of others is the one it gets alone."""
    pool = ModelPool(torch.device("cpu"), WorkerSettings(kv_mb=1, speculation="off"))
    pool.load("m", base, lambda _: None, quant="q8_0")
    found = pool.load_adapter("m:a", "m", save_adapter(tmp_path / "a", build("llama"), rank=3))
    module: Any = found.base.loaded.module
    alone, crowded = Serving(module), Serving(module, drafts=DraftSource(NgramDrafter))
    tokens = PROMPTS[1] * 3
    alone.submit(0, tokens, adapter=found.adapter)
    for number in range(3):
        crowded.submit(number, tokens, adapter=None if number else found.adapter)
    assert alone.drain()[0] == crowded.drain()[0] != crowded.tokens[1]


def test_a_prefix_is_shared_by_requests_with_one_adapter(loaded: AnyDecoder, tmp_path: Path):
    assert loaded.adapters
    loaded.adapters.add(read_adapter(save_adapter(tmp_path / "a", build("llama"))), 0)
    adapter = LoadedAdapter(0, b"a")
    serving = Serving(loaded)
    cached = []
    for turn, wanted in enumerate((None, adapter, adapter, None)):
        serving.submit(turn, prompt(5, 40), adapter=wanted)
        serving.drain()
        end = serving.ends[turn]
        assert isinstance(end, Finished)
        cached.append(end.cached_tokens)
    assert cached == [0, 0, 32, 32]
    assert serving.tokens[0] == serving.tokens[3] != serving.tokens[1] == serving.tokens[2]


def test_adapters_come_and_go(base: Path, tmp_path: Path):
    pool = ModelPool(torch.device("cpu"), WorkerSettings(kv_mb=1))
    model = build("llama")
    paths = {name: save_adapter(tmp_path / name, model, rank=ord(name) - 96) for name in "abc"}
    pool.load("m", base, lambda _: None)
    free = pool.free
    before = pool.load_adapter("m:b", "m", paths["b"])
    assert pool.load_adapter("m:b", "m", paths["b"]) is before
    text = answer(pool, "m:b")
    for number, name in enumerate("ac", 1):
        pool.load_adapter(f"m:{name}", "m", paths[name], number)
    assert pool.free < free
    assert answer(pool, "m:b") == text
    for name in "ba":
        pool.adapters.unload(f"m:{name}")
    again = pool.load_adapter("m:b", "m", paths["b"])
    assert again.adapter.key != before.adapter.key, "its file may have changed"
    assert answer(pool, "m:b") == text
    for name in "bc":
        pool.adapters.unload(f"m:{name}")
    assert (pool.free, pool.find("m:b")) == (free, None)
    pool.load_adapter("m:c", "m", paths["c"])
    pool.unload("m")
    assert pool.find("m:c") is None
    with pytest.raises(ModelLoadError, match="the model that it is for is not loaded"):
        pool.load_adapter("m:a", "m", paths["a"])


def answer(pool: ModelPool, name: str) -> list[int]:
    found = pool.find(name)
    assert found
    resident, adapter = found
    module: Any = resident.loaded.module
    serving = Serving(module)
    serving.submit(0, PROMPTS[2], adapter=adapter)
    return serving.drain()[0]


TENSOR = "base_model.model.model.layers.0.self_attn.q_proj"
BAD_CONFIGS: dict[str, dict[str, Any]] = {
    "use_dora is True, which is not supported; merge it": {"use_dora": True},
    "peft_type is 'IA3'": {"peft_type": "IA3"},
    "bias is 'all'": {"bias": "all"},
    r"modules_to_save is \['lm_head'\]": {"modules_to_save": ["lm_head"]},
    r"target_parameters is \['experts.down_proj'\]": {"target_parameters": ["experts.down_proj"]},
    "init_lora_weights is 'pissa_niter_4', so it is for a base model": {"init_lora_weights": "pissa_niter_4"},
    "r is None, not a positive number": {"r": None},
    "lora_alpha is inf": {"lora_alpha": {"__float__": "Infinity"}},
    "has rank 4 in A and 4 in B, but adapter_config.json says 8": {"r": 8},
    "rank_pattern is not a JSON object": {"rank_pattern": [1]},
    r"alpha_pattern has '\(a\+\)\+', which is no module's name": {"alpha_pattern": {"(a+)+": 1}},
}
BAD_TENSORS: dict[str, dict[str, torch.Tensor]] = {
    "is no part of a plain LoRA adapter": {"base_model.model.lm_head.weight": torch.zeros(2, 2)},
    "embed_tokens.lora_embedding_A is no part": {
        "base_model.model.model.embed_tokens.lora_embedding_A": torch.zeros(4, 128)
    },
    "is of type I8; save it as F32": {f"{TENSOR}.lora_A.weight": torch.zeros(4, 64, dtype=torch.int8)},
    r"is no matrix, but \[64\]": {f"{TENSOR}.lora_A.weight": torch.zeros(64)},
    "has rank 6 in A and 4 in B": {f"{TENSOR}.lora_A.weight": torch.zeros(6, 64)},
    "weights that are no finite numbers": {f"{TENSOR}.lora_A.weight": torch.full((4, 64), torch.nan)},
    "mlp.gate.lora_B.weight is missing": {"base_model.model.mlp.gate.lora_A.weight": torch.zeros(4, 64)},
}


@pytest.mark.parametrize("cause", BAD_CONFIGS)
def test_a_configuration_that_means_something_else_is_refused(cause: str, tmp_path: Path):
    path = save_adapter(tmp_path / "a", build("llama"), **BAD_CONFIGS[cause])
    with pytest.raises(ModelLoadError, match=cause) as error:
        read_adapter(path)
    assert str(path) in error.value.message


@pytest.mark.parametrize("cause", BAD_TENSORS)
def test_tensors_that_are_not_understood_are_refused(cause: str, tmp_path: Path):
    path = save_adapter(tmp_path / "a", build("llama"), tensors=BAD_TENSORS[cause])
    with pytest.raises(ModelLoadError, match=cause) as error:
        read_adapter(path)
    assert "adapter_model.safetensors" in error.value.message


def test_pickled_and_missing_weights_are_told_apart(tmp_path: Path):
    path = save_adapter(tmp_path / "a", build("llama"))
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")
    with pytest.raises(ModelLoadError, match="is pickled, and pickles run code"):
        read_adapter(path)
    (path / "adapter_model.bin").unlink()
    with pytest.raises(ModelLoadError, match=r"adapter_model\.safetensors: is missing"):
        read_adapter(path)


def test_an_adapter_for_another_model_is_refused(loaded: AnyDecoder, tmp_path: Path):
    assert loaded.adapters
    other = build("llama", hidden_size=32)
    path = save_adapter(tmp_path / "other", other, base_model_name_or_path="org/small")
    wrong = (
        "down_proj as a matrix of 32 x 96, which here is 64 x 96; it was made for 'org/small'; load it over"
    )
    with pytest.raises(ModelLoadError, match=wrong):
        loaded.adapters.add(read_adapter(path), 0)
    head = save_adapter(tmp_path / "head", build("llama"), pattern="lm_head")
    with pytest.raises(ModelLoadError, match="it changes lm_head, for which this model takes no adapter"):
        loaded.adapters.add(read_adapter(head), 0)
    assert loaded.adapters.num_bytes == 0


def test_a_decoder_whose_layers_see_no_flat_batch_takes_no_adapter(tmp_path: Path):
    assert decoder(save(tmp_path / "model", "bloom")).adapters is None


@settings(max_examples=60, deadline=None)
@given(
    key=st.sampled_from(
        ["r", "lora_alpha", "rank_pattern", "alpha_pattern", "bias", "use_rslora", "peft_type"]
    ),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
        max_leaves=4,
    ),
)
def test_any_configuration_is_read_or_refused(adapter_path: Path, key: str, value: Any):
    file = adapter_path / "adapter_config.json"
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8} | {key: value}
    file.write_text(json.dumps(config))
    with contextlib.suppress(ModelLoadError):
        read_adapter(adapter_path)


@pytest.fixture(scope="module")
def adapter_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(tmp_path_factory.mktemp("adapter") / "a", build("llama"))
