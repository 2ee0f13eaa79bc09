"""Models that are written as GGUF come to transformers' own logits and texts."""

from __future__ import annotations

import gc
from pathlib import Path

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from neuron.models.architecture import decoder_class, read_config
from neuron.models.checkpoint import Checkpoint, ModelLoadError
from neuron.models.decoder import load_decoder, model_dtype
from neuron.models.formats.tensor_types import TENSOR_TYPES
from neuron.models.gguf.families import FAMILIES
from neuron.models.reading import read_checkpoint
from neuron.models.stored_weight import StoredWeight
from neuron.models.weights import LoadOptions, load_weights
from tests.device.serving import prompt, texts
from tests.device.stored import multiply_plainly
from tests.gguf.models import EXAMPLES, build, fused, split_experts, write

OPTIONS = LoadOptions(torch.float32, torch.device("cpu"), on_progress=lambda _: None)
TOKENS = prompt(3, 40)
# Every type of blocks that files are full of, and every way of arranging them.
STORED = [
    ("llama3", Kind.Q8_0),
    ("llama", Kind.Q4_K),
    ("mixtral", Kind.Q6_K),
    ("qwen2_moe", Kind.Q4_0),
    ("gemma3", Kind.Q4_K),
    ("phi3", Kind.Q8_0),
    ("gpt_oss", Kind.MXFP4),
    ("llama", Kind.F16),
]


@torch.inference_mode()
def logits(model):
    model.set_attn_implementation("eager")
    return model(torch.tensor([TOKENS])).logits[0]


def transformers_model(checkpoint: Checkpoint):
    config = read_config(checkpoint)
    return load_weights(checkpoint, config, decoder_class(checkpoint, config), OPTIONS, attention="eager")


def assert_same_logits(path: Path, model) -> None:
    torch.testing.assert_close(
        logits(transformers_model(read_checkpoint(path))), logits(model), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_model_has_the_logits_of_the_one_it_was_made_of(tmp_path, name):
    model = build(name)
    write(tmp_path / "model.gguf", name, model)
    assert_same_logits(tmp_path / "model.gguf", model)


def test_every_family_has_an_example():
    assert {example.architecture for example in EXAMPLES.values()} == FAMILIES.keys()


@pytest.mark.parametrize(("name", "kind"), STORED)
def test_stored_blocks_give_the_text_of_the_numbers_they_stand_for(tmp_path, monkeypatch, name, kind):
    multiply_plainly(monkeypatch)
    model = build(name)
    write(tmp_path / "model.gguf", name, model, kind)
    expected = model.generate(torch.tensor([TOKENS]), max_new_tokens=12, do_sample=False, eos_token_id=None)
    decoder = load_decoder(read_checkpoint(tmp_path / "model.gguf"), OPTIONS)
    assert texts(decoder, {0: TOKENS}, max_tokens=12)[0] == expected[0, len(TOKENS) :].tolist()


@pytest.mark.parametrize(
    ("kind", "dtype"), [(Kind.F32, torch.float32), (Kind.F16, torch.float16), (Kind.Q8_0, torch.bfloat16)]
)
def test_blocks_are_computed_with_in_bfloat16_and_numbers_as_they_are(tmp_path, kind, dtype):
    write(tmp_path / "model.gguf", "llama", build("llama"), kind)
    assert model_dtype(read_checkpoint(tmp_path / "model.gguf")) == dtype


def test_weights_stay_in_the_file_and_share_its_memory(tmp_path):
    model = build("qwen3")
    write(tmp_path / "model.gguf", "qwen3", model, Kind.Q8_0)
    loaded = transformers_model(read_checkpoint(tmp_path / "model.gguf"))
    weight = loaded.model.layers[0].mlp.down_proj.weight.data
    assert isinstance(weight, StoredWeight)
    (blocks,) = weight.matrix.blocks
    assert mapped(tmp_path / "model.gguf")
    address = blocks.data_ptr()
    assert any(start <= address < end for start, end in mapped(tmp_path / "model.gguf"))
    del loaded, weight, blocks
    gc.collect()  # modules of torch know each other
    assert not mapped(tmp_path / "model.gguf")


def mapped(path: Path) -> list[tuple[int, int]]:
    """The addresses at which this process has a file in memory."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    found = [line.split()[0].split("-") for line in lines if line.endswith(str(path))]
    return [(int(start, 16), int(end, 16)) for start, end in found]


def test_scaled_frequencies_of_llama_3_1_are_heeded(tmp_path):
    model = build("llama3")
    write(tmp_path / "model.gguf", "llama3", model)
    loaded = transformers_model(read_checkpoint(tmp_path / "model.gguf"))
    plain = build("llama", tie_word_embeddings=True)
    assert not torch.allclose(loaded.model.rotary_emb.inv_freq, plain.model.rotary_emb.inv_freq)
    torch.testing.assert_close(loaded.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_queries_keys_and_values_may_be_joined(tmp_path, name):
    model = build(name)
    write(tmp_path / "model.gguf", name, model, change=fused)
    assert_same_logits(tmp_path / "model.gguf", model)


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss"])
def test_gates_and_what_they_gate_may_be_joined(tmp_path, name):
    model = build(name)
    write(tmp_path / "model.gguf", name, model, change=fused)
    assert_same_logits(tmp_path / "model.gguf", model)


def test_experts_may_be_apart_as_in_files_of_before(tmp_path):
    model = build("mixtral")
    write(tmp_path / "model.gguf", "mixtral", model, change=split_experts)
    assert_same_logits(tmp_path / "model.gguf", model)


def test_a_gate_and_what_it_gates_may_be_stored_differently(tmp_path, monkeypatch):
    multiply_plainly(monkeypatch)
    model = build("qwen3_moe")
    write(tmp_path / "model.gguf", "qwen3_moe", model, Kind.Q8_0, change=with_plain_experts)
    assert_same_logits(tmp_path / "model.gguf", model)


def with_plain_experts(tensors):
    plain = {
        name: gguf.quants.dequantize(data, Kind.Q8_0) for name, data in tensors.items() if "up_exps" in name
    }
    return tensors | plain


def test_a_model_in_several_files_is_whole(tmp_path):
    model = build("llama")
    write(tmp_path / "model.gguf", "llama", model, split_max_tensors=10)
    parts = sorted(tmp_path.glob("*.gguf"))
    assert len(parts) > 2
    assert_same_logits(parts[0], model)
    with pytest.raises(ModelLoadError, match=rf"later part of a model; name the first, {parts[0].name}"):
        read_checkpoint(parts[1])
    parts[-1].rename(tmp_path / "elsewhere")
    with pytest.raises(ModelLoadError, match=rf"{parts[-1].name}: is missing: part {len(parts)} of"):
        read_checkpoint(parts[0])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("blk.1.attn_k.weight", None, "lacks model.layers.1.self_attn.k_proj.weight"),
        ("blk.0.attn_rel_b.weight", lambda rows: rows, "no place for: blk.0.attn_rel_b.weight"),
        ("blk.0.attn_q.weight", lambda rows: rows[:, :128], "q_proj.weight has shape"),
        ("blk.0.attn_q.weight", lambda rows: rows[:3], r"blk.0.attn_q.weight: of shape \[3, 256\]"),
        ("token_embd.weight", None, "lacks the table token_embd.weight"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path, name, change, message):
    def changed(tensors):
        others = {other: data for other, data in tensors.items() if other != name}
        return others | ({name: change(tensors["blk.0.ffn_up.weight"])} if change else {})

    model = build("llama")
    write(tmp_path / "model.gguf", "llama", model, change=changed)
    with pytest.raises(ModelLoadError, match=message):
        transformers_model(read_checkpoint(tmp_path / "model.gguf"))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("general.architecture", "mamba9", "general.architecture is 'mamba9'; of GGUF files .*llama.* run"),
        ("general.type", "adapter", "general.type is 'adapter'"),
        ("llama.block_count", 4, r"model.gguf: num_hidden_layers is 4, but the weights have 3"),
        ("llama.block_count", 1 << 30, "llama.block_count is 1073741824, but the weights are"),
        ("llama.block_count", "3", "llama.block_count is '3', but must be a whole number from 1 on"),
        ("llama.embedding_length", 128, "llama.embedding_length is 128, but token_embd.weight has 256"),
        ("llama.attention.head_count", 0, "llama.attention.head_count is 0"),
        ("llama.attention.head_count", [4, 4, 2], "llama.attention.head_count differs from layer to layer"),
        ("llama.attention.head_count_kv", 3, "no multiple of 3, llama.attention.head_count_kv"),
        ("llama.rope.scaling.type", "spiral", "llama.rope.scaling.type is 'spiral'"),
        ("llama.attention.layer_norm_rms_epsilon", None, "lacks the key llama.attention.layer_norm_rms"),
    ],
)
def test_keys_that_do_not_fit_are_refused(tmp_path, key, value, message):
    model = build("llama")
    write(tmp_path / "model.gguf", "llama", model, keys={key: value})
    with pytest.raises(ModelLoadError, match=message):
        transformers_model(read_checkpoint(tmp_path / "model.gguf"))


@pytest.mark.parametrize("divisors", [[1.0] * 5, [1.0, 0.0] * 16, [float("nan")] * 32])
def test_divisors_of_frequencies_that_do_not_fit_are_refused(tmp_path, divisors):
    model = build("llama")
    extra = torch.tensor(divisors).numpy()
    write(tmp_path / "model.gguf", "llama", model, change=lambda t: t | {"rope_freqs.weight": extra})
    with pytest.raises(ModelLoadError, match=r"divisors of frequencies|rope_freqs.weight holds"):
        transformers_model(read_checkpoint(tmp_path / "model.gguf"))


def test_types_of_tensors_are_those_of_the_format():
    sizes = {kind.value: (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in Kind}
    ours = {number: (kind.name, kind.num_values, kind.num_bytes) for number, kind in TENSOR_TYPES.items()}
    assert ours.items() <= sizes.items()
