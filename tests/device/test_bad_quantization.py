"""A quantization_config that is wrong, or says otherwise than the tensors, is refused with file and key."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from neuron.models.checkpoint import CONFIG, WEIGHTS, Checkpoint, ModelLoadError, OpenFiles, SafetensorsEntry
from neuron.models.quantized.schemes import SCHEMES, read_quantized
from neuron.models.reading import read_checkpoint
from neuron.models.stored_weight import StoredWeight
from tests.device import quantized
from tests.device.quantized import Method, compressed, compressed_config

NAME = "model.layers.0.mlp.up_proj"
INT4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 16}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 16}
FP8 = {"quant_method": "fp8", "weight_block_size": [32, 32]}
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}
MXFP4 = {"quant_method": "mxfp4"}
NVFP4 = {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group", "group_size": 16}


def packed(**weights: Any) -> dict[str, Any]:
    return compressed_config("pack-quantized", **INT4 | weights)


def experts(weight: Tensor) -> quantized.Stored:
    return quantized.mxfp4(weight.unsqueeze(0))


def plain(weight: Tensor) -> quantized.Stored:
    return {".weight": weight}, weight


INTEGERS = compressed("pack-quantized", **INT4)
NV = compressed("nvfp4-pack-quantized", **NVFP4)
CODES, FLOATS = quantized.gptq(4), quantized.fp8(32, 32)
FOUR_BITS = quantized.bitsandbytes("nf4", nested=False)
Edit = Callable[[dict[str, Tensor]], object]


def cut(suffix: str) -> Edit:
    return lambda tensors: tensors.update({NAME + suffix: tensors[NAME + suffix][:1]})


def without(suffix: str) -> Edit:
    return lambda tensors: tensors.pop(NAME + suffix)


def changed(suffix: str, change: Callable[[Tensor], Tensor]) -> Edit:
    return lambda tensors: tensors.update({NAME + suffix: change(tensors[NAME + suffix])})


def as_is(_: dict[str, Tensor]) -> None:
    pass


# What it is: the configuration, what stores the weight, what is then done to its tensors, and the refusal.
REFUSED: dict[str, tuple[Any, Method, Edit, str]] = {
    "a string": ("awq", plain, as_is, "quantization_config is 'awq', but must be an object"),
    "a list": ([], plain, as_is, r"quantization_config is \[\], but must be an object"),
    "no method": ({}, plain, as_is, "quantization_config.quant_method is None.* awq, .* would"),
    "unknown": ({"quant_method": "hqq"}, plain, as_is, "quant_method is 'hqq', which does not run; awq"),
    "no name": ({"quant_method": ["awq"]}, plain, as_is, r"quant_method is \['awq'\]"),
    "plain weights": (
        AWQ,
        plain,
        as_is,
        "is 'awq', but no tensor is stored so; remove quantization_config",
    ),
    "another method": (AWQ, FLOATS, as_is, "is 'awq', but no tensor is stored so"),
    "gptq bits": (
        GPTQ | {"bits": 8},
        CODES,
        as_is,
        "scales is .* by quantization_config.group",
    ),
    "gptq five bits": (
        GPTQ | {"bits": 5},
        CODES,
        as_is,
        "bits is 5, which .* 2, 3, 4, 8 would",
    ),
    "gptq group": (
        GPTQ | {"group_size": 64},
        CODES,
        as_is,
        "quantization_config.group_size",
    ),
    "gptq sizes": (
        GPTQ | {"group_size": "a"},
        CODES,
        as_is,
        "group_size is 'a', but must be a",
    ),
    "gptq format": (
        GPTQ | {"checkpoint_format": "marlin"},
        CODES,
        as_is,
        "gptq, gptq_v2 would",
    ),
    "gptq some": (GPTQ | {"dynamic": {"-:a": {}, "+:b": {}}}, CODES, as_is, "dynamic gives modules bits"),
    "modelopt": (
        {"quant_method": "modelopt", "quant_algo": "W4A8"},
        CODES,
        as_is,
        "'W4A8', .* FP8, NVFP4 would",
    ),
    "gptq modules": (
        GPTQ | {"dynamic": {"a": {}}},
        CODES,
        as_is,
        "dynamic gives modules bits",
    ),
    "gptq zeros": (GPTQ, CODES, without(".qzeros"), f"lacks {NAME}.qzeros"),
    "gptq order": (GPTQ, CODES, cut(".g_idx"), "g_idx is"),
    "gptq groups": (
        GPTQ,
        CODES,
        changed(".g_idx", torch.zeros_like),
        "groups of other sizes than 32",
    ),
    "gptq far": (
        GPTQ,
        CODES,
        changed(".g_idx", lambda g: g + 9),
        "groups of other sizes than 32",
    ),
    "awq layout": (AWQ | {"version": "gemv"}, quantized.awq, as_is, "version is 'gemv', .* gemm"),
    "awq group": (AWQ | {"group_size": 32}, quantized.awq, as_is, "quantization_config.group_size"),
    "awq scales": (AWQ, quantized.awq, cut(".scales"), r"scales is \[1, 64\], but must be \[8, 64\]"),
    "fp8 blocks": (
        FP8 | {"weight_block_size": [16, 32]},
        FLOATS,
        as_is,
        "weight_block_size",
    ),
    "fp8 block": (
        FP8 | {"weight_block_size": [0, 32]},
        FLOATS,
        as_is,
        "must be two sizes",
    ),
    "fp8 scales": (FP8, FLOATS, without(".weight_scale_inv"), "lacks .*up_proj.weight_scale"),
    "fp8 type": (
        FP8,
        FLOATS,
        changed(".weight", lambda w: w.to(torch.float8_e5m2)),
        "weight is F8_E5M2, but must be F8_E4M3",
    ),
    "bits": (
        packed(num_bits=8),
        INTEGERS,
        as_is,
        "weight_packed is .* by quantization_config.config_groups",
    ),
    "no bits": (packed(num_bits="4"), INTEGERS, as_is, "weights.num_bits is '4', which does not run"),
    "kind": (packed(type="float"), INTEGERS, as_is, "weight_packed is I32, but must be U8"),
    "strategy": (packed(strategy="channel"), INTEGERS, as_is, "weight_scale is"),
    "no groups": ({"quant_method": "compressed-tensors"}, INTEGERS, as_is, "config_groups must be"),
    "no target": (
        packed() | {"config_groups": {"g": {"targets": ["re:.*down"], "weights": INT4}}},
        INTEGERS,
        as_is,
        f"config_groups has no target for {NAME}",
    ),
    "no pattern": (
        packed() | {"config_groups": {"g": {"targets": ["re:("], "weights": INT4}}},
        INTEGERS,
        as_is,
        r"targets has 're:\(', no pattern",
    ),
    "rotated": (packed() | {"transform_config": {"a": 1}}, INTEGERS, as_is, "transform_config is set"),
    "sparse": (
        packed() | {"sparsity_config": {"format": "sparse-24-bitmask"}},
        INTEGERS,
        as_is,
        "sparsity_config is set",
    ),
    "shape": (
        packed(),
        INTEGERS,
        changed(".weight_shape", lambda s: s * 2),
        r"weight_shape is \[128, 256\], but",
    ),
    "scale": (packed(), INTEGERS, without(".weight_scale"), f"lacks {NAME}.weight_scale"),
    "a scale alone": (packed(), INTEGERS, without(".weight_packed"), "weight_scale is there, but the weight"),
    "negative scale": (
        compressed_config("nvfp4-pack-quantized", **NVFP4),
        NV,
        changed(".weight_scale", lambda s: (-s.float()).to(torch.float8_e4m3fn)),
        "a scale is negative",
    ),
    "exponent": (MXFP4, experts, changed("_scales", lambda s: s.fill_(255)), "a scale is not a number"),
    "mxfp4 scales": (MXFP4, experts, changed("_scales", lambda s: s[:, :1]), r"_scales is \[1, 1, 2\]"),
    "bitsandbytes unset": (BNB | {"load_in_4bit": False}, FOUR_BITS, as_is, "load_in_4bit is not set"),
    "bitsandbytes scales": (BNB, FOUR_BITS, cut(".weight.absmax"), r"absmax is \[1\], but must be \[128\]"),
    "bitsandbytes map": (
        BNB,
        FOUR_BITS,
        changed(".weight.quant_map", lambda m: m * 2),
        "quant_map is not that of nf4",
    ),
    "bitsandbytes state": (
        BNB,
        FOUR_BITS,
        changed(".weight.quant_state.bitsandbytes__nf4", lambda s: s[:9]),
        "quant_state of .* is damaged",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case: str, tmp_path: Path):
    config, store, edit, message = REFUSED[case]
    path = directory(tmp_path, store, edit, config)
    with pytest.raises(ModelLoadError, match=message) as raised:
        read_all(path)
    assert re.match(rf"{tmp_path}/({CONFIG}|{WEIGHTS}): ", raised.value.message)


def test_a_pattern_has_a_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def match(_pattern: str, _name: str, *, timeout: float) -> None:
        raise TimeoutError(timeout)

    monkeypatch.setattr("regex.match", match)
    groups = {"g": {"targets": ["re:.*"], "weights": INT4}}
    path = directory(tmp_path, INTEGERS, as_is, packed() | {"config_groups": groups})
    with pytest.raises(ModelLoadError, match="config_groups has a pattern that takes too long"):
        read_all(path)


@pytest.mark.parametrize("config", [None, ...], ids=["null", "none"])
def test_no_quantization_is_plain(config: Any, tmp_path: Path):
    (entry,) = read_all(directory(tmp_path, plain, as_is, config))
    assert type(entry) is Tensor


def test_an_old_name_of_the_configuration_is_known(tmp_path: Path):
    path = directory(tmp_path, INTEGERS, as_is, None)
    values = {key: value for key, value in packed().items() if key != "quant_method"}
    (path / CONFIG).write_text(json.dumps({"model_type": "llama", "compression_config": values}))
    assert isinstance(read_all(path)[0], StoredWeight)


def test_null_in_a_configuration_says_nothing(tmp_path: Path):
    weights = INT4 | {"strategy": None, "block_structure": None, "actorder": None}
    groups = {
        "a": {"targets": ["re:.*self_attn$"], "weights": None},
        "b": {"targets": ["Linear"], "weights": weights},
    }
    path = directory(tmp_path, INTEGERS, as_is, packed() | {"config_groups": groups, "sparsity_config": None})
    assert isinstance(read_all(path)[0], StoredWeight)


def test_a_module_is_read_by_the_group_that_names_it_most_closely(tmp_path: Path):
    wrong = INT4 | {"num_bits": 8}
    groups = {
        "a": {"targets": ["Linear"], "weights": wrong},
        "b": {"targets": [r"re:.*up_proj$"], "weights": wrong},
        "c": {"targets": [NAME], "weights": INT4},
    }
    path = directory(tmp_path, INTEGERS, as_is, packed() | {"config_groups": groups})
    assert isinstance(read_all(path)[0], StoredWeight)


def directory(path: Path, store: Method, edit: Edit, config: Any) -> Path:
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(2))
    tensors = {NAME + suffix: tensor.contiguous() for suffix, tensor in store(weight)[0].items()}
    edit(tensors)
    save_file(tensors, path / WEIGHTS)
    said = {} if config is ... else {"quantization_config": config}
    (path / CONFIG).write_text(json.dumps({"model_type": "llama"} | said))
    return path


def read_all(path: Path) -> list[Tensor]:
    with ExitStack() as exits:
        return [entry.read(OpenFiles(exits)) for entry in read_checkpoint(path).tensors.values()]


_VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-2, 200)
    | st.floats()
    | st.sampled_from(
        ["", "int", "float", "group", "block", "gemm", "gptq", "Linear", "re:(", "dense", "e4m3"]
    )
)
_KEYS = (
    "bits", "w_bit", "group_size", "q_group_size", "zero_point", "version", "checkpoint_format", "dynamic",
    "fmt", "weight_block_size", "load_in_4bit", "load_in_8bit", "bnb_4bit_quant_storage", "config_groups",
    "targets", "weights", "num_bits", "type", "strategy", "block_structure", "sparsity_config",
    "transform_config", "g",
)  # fmt: skip
_JSON = st.recursive(
    _VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=4),
    max_leaves=12,
)
_SUFFIXES = (
    ".weight", ".qweight", ".qzeros", ".scales", ".g_idx", ".weight_packed", ".weight_scale",
    ".weight_scale_inv", ".weight_zero_point", ".weight_shape", ".weight_global_scale", "_blocks",
    "_scales", ".SCB", ".weight.absmax",
)  # fmt: skip
_DTYPES = ("F32", "BF16", "I8", "U8", "I32", "I64", "F8_E4M3", "F8_E8M0")
_SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 16, 64, 96]), max_size=4).map(tuple)
_PARTS = st.tuples(st.sampled_from(_DTYPES), _SHAPES)


@settings(max_examples=300, deadline=None)
@given(
    method=st.sampled_from(sorted(SCHEMES)),
    config=st.dictionaries(st.sampled_from(_KEYS), _JSON, max_size=4),
    parts=st.dictionaries(
        st.sampled_from(_SUFFIXES), st.tuples(st.sampled_from(_DTYPES), _SHAPES), max_size=5
    ),
)
def test_any_configuration_of_any_tensors_is_read_or_refused(
    method: str, config: dict[str, Any], parts: dict[str, tuple[str, tuple[int, ...]]]
):
    file = Path("/nowhere") / WEIGHTS
    tensors = {
        NAME + suffix: SafetensorsEntry(file, NAME + suffix, dtype, shape, 0, prod(shape))
        for suffix, (dtype, shape) in parts.items()
    }
    said = {"quantization_config": {"quant_method": method} | config}
    checkpoint = Checkpoint(file.parent, {"model_type": "llama"} | said, tensors)
    message = ""
    read = checkpoint
    try:
        read = read_quantized(checkpoint)
    except ModelLoadError as refused:
        message = refused.message
    assert str(file.parent) in message or "quantization_config" not in read.config
    assert all(entry.loaded_bytes(4) >= 0 for entry in read.tensors.values())
