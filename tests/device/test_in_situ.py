"""Weights that are quantized while they are loaded: which, to what bytes, and in how much memory."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuron.models.architecture import decoder_class, read_config
from neuron.models.checkpoint import Checkpoint, ModelLoadError, OpenFiles, TensorEntry
from neuron.models.in_situ import IN_SITU, quantization
from neuron.models.in_situ.checkpoint import InSituEntry, in_situ
from neuron.models.in_situ.quantization import format_of, quantize
from neuron.models.memory_estimate import estimate_memory, stored_format, weight_bytes
from neuron.models.reading import read_checkpoint
from neuron.models.stored_weight import dense
from neuron.models.weights import LoadOptions, load_weights
from tests.device.live_floats import LiveFloats
from tests.device.stored import ChangedEntry, load, logits, multiply_plainly
from tests.device.zoo import save

FORMATS = [(quant, width) for quant in IN_SITU for width in (256, 96)]
# By quant: the root mean square of what is lost, of normal values' own.
LOST = {"q8_0": 0.006, "q4_k": 0.074, "int4": 0.098, "fp8": 0.028}


@pytest.fixture(params=["compiled", "torch"])
def code(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name = str(request.param)
    if name == "torch":
        monkeypatch.setattr(quantization, "_compiled", None)
    elif quantization._compiled is None:
        pytest.skip("no compiler was there")
    return name


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stored_bytes(weight: Tensor, quant: str, num_threads: int = 1) -> list[Tensor]:
    form = format_of(quant, weight.shape[-1])
    assert form
    return list(quantize(weight, form, num_threads).blocks)


# --- bytes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("quant", "width", "name"), [("q8_0", 96, "Q8_0"), ("q4_k", 96, "Q5_0")])
def test_blocks_are_those_of_gguf_s_own_quantizer(code: str, quant: str, width: int, name: str):
    weight = normal(64, width)
    weight[0], weight[1, 0], weight[2] = 0, 200, weight[2] * 1e-7
    weight[3] = torch.arange(width) / 2  # halves, and many of them
    theirs = gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType[name])
    (ours,) = stored_bytes(weight, quant)
    assert ours.numpy().tobytes() == theirs.tobytes()


values = st.floats(-1e4, 1e4, width=32) | st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, 1e-6, -1e-30])


@pytest.mark.skipif(quantization._compiled is None, reason="no compiler was there")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("quant", "width"), FORMATS)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_compiled_code_and_torch_give_the_same_bytes(
    quant: str, width: int, dtype: torch.dtype, data: st.DataObject
):
    scale = data.draw(st.sampled_from([1.0, 0.02, 1e-7, 1e3]))
    weight = normal(8, width, seed=data.draw(st.integers(0, 1 << 30))) * scale
    weight[0] = torch.tensor(data.draw(st.lists(values, min_size=width, max_size=width)))
    weight[1] = data.draw(values)
    weight[2] = weight[2].abs()
    weight = weight.to(dtype)
    compiled = stored_bytes(weight, quant)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantization, "_compiled", None)
        plain = stored_bytes(weight, quant)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(compiled, plain, strict=True))


@pytest.mark.parametrize(("quant", "width"), [*FORMATS, ("fp8", 99)])
def test_bytes_are_the_same_on_any_number_of_threads(
    code: str, quant: str, width: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(quantization, "_PIECE", 1000)
    experts = normal(3, 37, width)
    alone, together = stored_bytes(experts, quant), stored_bytes(experts, quant, num_threads=4)
    one_by_one = [torch.stack(part) for part in zip(*(stored_bytes(e, quant) for e in experts), strict=True)]
    for serial, parallel, single in zip(alone, together, one_by_one, strict=True):
        assert torch.equal(serial, parallel)
        assert torch.equal(serial, single)


def test_long_work_pauses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quantization, "_PIECE", 256)
    pauses: list[int] = []
    form = format_of("q8_0", 256)
    assert form
    for num_threads in (1, 4):
        quantize(normal(100, 256), form, num_threads, lambda: pauses.append(1))
    assert len(pauses) == 2 * (100 // 16)


@pytest.mark.parametrize("quant", IN_SITU)
def test_what_is_lost_is_little(code: str, quant: str):
    weight = normal(64, 1024)
    form = format_of(quant, 1024)
    assert form
    matrix = quantize(weight, form, 1)
    assert matrix.bits_per_weight == pytest.approx(form.bits_per_weight)
    lost = (matrix.dequantize(torch.float32) - weight).square().mean().sqrt()
    assert lost < LOST[quant]


@pytest.mark.parametrize("quant", IN_SITU)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(code: str, quant: str, value: float):
    weight = normal(4, 256)
    weight[2, 100] = value
    with pytest.raises(ValueError, match="not finite"):
        stored_bytes(weight, quant)


@pytest.mark.parametrize(
    ("quant", "width", "name", "bits"),
    [
        ("q8_0", 96, "q8_0", 8.5),
        ("q8_0", 100, None, 0),
        ("q4_k", 512, "q4_k", 4.5),
        ("q4_k", 96, "q5_0", 5.5),
        ("q4_k", 100, None, 0),
        ("int4", 384, "int4", 4 + 40 / 128),
        ("int4", 96, "int4", 4 + 40 / 32),
        ("int4", 100, None, 0),
        ("fp8", 100, "fp8", 8 + 32 / 100),
    ],
)
def test_a_format_fits_the_rows(quant: str, width: int, name: str | None, bits: float):
    form = format_of(quant, width)
    assert (form and form.name) == name
    assert form is None or form.bits_per_weight == bits


# --- models -----------------------------------------------------------------------------------------------

WIDE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}


def opened(path: Path, quant: str = "q8_0") -> Checkpoint:
    return in_situ(read_checkpoint(path), quant, decoder_class)


def formats(checkpoint: Checkpoint, part: str) -> set[str]:
    return {entry.dtype for name, entry in checkpoint.tensors.items() if part in name}


def as_plain(checkpoint: Checkpoint) -> Checkpoint:
    """The same, with the plain numbers that the quantized ones stand for."""

    def plain(entry: TensorEntry) -> TensorEntry:
        return ChangedEntry(entry, dense) if isinstance(entry, InSituEntry) else entry

    return replace(checkpoint, tensors={name: plain(entry) for name, entry in checkpoint.tensors.items()})


@pytest.mark.parametrize(
    ("family", "changes", "quantized", "left"),
    [
        ("llama", {}, ["q_proj", "down_proj", "lm_head"], ["embed_tokens", "norm"]),
        ("llama", {"tie_word_embeddings": True}, ["embed_tokens", "up_proj"], ["norm"]),
        ("phi3", {}, ["qkv_proj", "gate_up_proj"], ["norm"]),
        ("qwen3_moe", {}, ["experts.1.up_proj", "o_proj"], ["mlp.gate.", "norm"]),
        ("gpt_oss", {"hidden_size": 64, "intermediate_size": 64}, ["experts.down_proj"], ["router", "_bias"]),
        (
            "qwen3_next",
            {},
            ["in_proj_qkvz", "shared_expert.up_proj"],
            ["conv1d", "A_log", "shared_expert_gate"],
        ),
        ("mamba", {}, ["mixer.in_proj"], ["dt_proj", "conv1d", "A_log"]),
    ],
)
def test_linear_layers_and_experts_are_quantized_and_nothing_else(
    family: str, changes: dict[str, Any], quantized: list[str], left: list[str], tmp_path: Path
):
    checkpoint = opened(save(tmp_path, family, **changes))
    for part in quantized:
        names = [name for name in checkpoint.tensors if part in name and "bias" not in name]
        assert names, part
        assert {checkpoint.tensors[name].dtype for name in names} == {"q8_0"}, part
    for part in left:
        assert formats(checkpoint, part) == {"F32"}, part


@pytest.mark.parametrize("quant", IN_SITU)
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"tie_word_embeddings": True, **WIDE}),
        ("qwen3_moe", {}),
        ("gpt_oss", {"intermediate_size": 64}),
        ("phi3", {}),
    ],
)
def test_a_quantized_model_computes_what_its_weights_stand_for(
    family: str, changes: dict[str, Any], quant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    multiply_plainly(monkeypatch)
    checkpoint = opened(save(tmp_path, family, **changes), quant)
    wanted = logits(load(as_plain(checkpoint)))
    torch.testing.assert_close(logits(load(checkpoint)), wanted, rtol=1e-3, atol=1e-3)


def test_the_head_has_eight_bits(tmp_path: Path):
    checkpoint = opened(save(tmp_path, **WIDE), "q4_k")
    assert formats(checkpoint, "lm_head") == {"q8_0"}
    assert formats(checkpoint, "proj") == {"q4_k"}


def test_what_does_not_fit_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = save(tmp_path, hidden_size=64, intermediate_size=100)
    with caplog.at_level(logging.INFO, "neuron.models"):
        checkpoint = opened(path, "q4_k")
    (record,) = [record for record in caplog.records if record.message == "weights are quantized"]
    made = Counter(entry.dtype for entry in checkpoint.tensors.values() if entry.dtype != "F32")
    assert record.__dict__["formats"] == made
    assert set(made) == {"q5_0", "q8_0"}
    assert record.__dict__["left"] == {"rows of no whole number of blocks": 3}  # a down_proj of each layer


def test_a_checkpoint_without_plain_weights_is_refused(tmp_path: Path):
    once = opened(save(tmp_path))
    with pytest.raises(ModelLoadError, match=r"cannot be quantized as fp8 \(stored as q8_0\)") as raised:
        in_situ(once, "fp8", decoder_class)
    assert raised.value.code == "model_unsupported"


def test_a_weight_that_is_not_finite_is_named(tmp_path: Path):
    def spoil(model: Any) -> None:
        model.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")

    checkpoint = opened(save(tmp_path, edit=spoil))
    with pytest.raises(ModelLoadError, match=r"layers\.1\.mlp\.up_proj\.weight holds values that are"):
        load(checkpoint)


@pytest.mark.parametrize("quant", IN_SITU)
def test_the_estimate_counts_what_is_stored(quant: str, tmp_path: Path):
    checkpoint = opened(save(tmp_path, tie_word_embeddings=True, **WIDE), quant)
    found = estimate_memory(checkpoint, torch.float32, context=256, step_tokens=10, rows=8)
    assert found.weights == weight_bytes(checkpoint, torch.float32)
    held = sum(loaded_bytes(entry) for entry in checkpoint.tensors.values())
    assert found.weights == pytest.approx(held, rel=1e-3)
    name, bits = stored_format(checkpoint, torch.float32)
    assert name == quant
    num_values = sum(weight.numel() for weight in load_plain(checkpoint))
    assert bits == pytest.approx(8 * held / num_values)


def loaded_bytes(entry: TensorEntry) -> int:
    if isinstance(entry, InSituEntry):
        return sum(block.nbytes for block in read(entry).matrix.blocks)
    return int(read(entry).nbytes)


def load_plain(checkpoint: Checkpoint) -> Iterator[Tensor]:
    return (read(entry) for entry in checkpoint.tensors.values())


def read(entry: TensorEntry) -> Any:
    with ExitStack() as exits:
        return entry.read(OpenFiles(exits))


@pytest.mark.skipif(quantization._compiled is None, reason="no compiler was there")
@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "gpt_oss"])
def test_a_load_holds_the_result_and_no_more_than_two_plain_tensors(family: str, tmp_path: Path):
    checkpoint = opened(save(tmp_path, family, **WIDE), "q4_k")
    read, left = (
        [
            entry.num_bytes
            for entry in checkpoint.tensors.values()
            if isinstance(entry, InSituEntry) == is_read
        ]
        for is_read in (True, False)
    )
    config = read_config(checkpoint)
    options = LoadOptions(torch.bfloat16, torch.device("cpu"), on_progress=lambda _: None)
    with LiveFloats() as floats:
        load_weights(checkpoint, config, decoder_class(checkpoint, config), options, attention=None)
    assert floats.peak_bytes <= sum(left) + 2 * max(read) < sum(read)
