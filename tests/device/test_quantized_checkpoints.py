"""Quantized checkpoints stay as they are, stand for the right numbers, and give the texts of these."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from neuron.models.checkpoint import CONFIG, WEIGHTS, OpenFiles
from neuron.models.reading import read_checkpoint
from neuron.models.stored_weight import StoredWeight, dense
from tests.device.quantized import (
    GROUP,
    Method,
    awq,
    bitsandbytes,
    compressed,
    compressed_config,
    eight_bits,
    fp8,
    gptq,
    modelopt,
    mxfp4,
    quantize,
)
from tests.device.serving import decoder, prompt, texts
from tests.device.stored import logits, multiply_plainly
from tests.device.zoo import save

PROMPTS = {number: prompt(number, length) for number, length in enumerate((3, 21))}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3"}
BNB = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "load_in_8bit": False,
    "bnb_4bit_quant_storage": "uint8",
}


def gptq_config(bits: int = 4, **more: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": bits, "group_size": 32, "desc_act": False} | more


def compress(form: str, **weights: Any) -> tuple[dict[str, Any], Method]:
    return compressed_config(form, **weights), compressed(form, **weights)


INT = {"type": "int", "symmetric": True}
FLOAT = {"type": "float", "symmetric": True}
# By name: the configuration, and what stores a weight.
CASES: dict[str, tuple[dict[str, Any], Method]] = {
    "w4a16 group": compress("pack-quantized", num_bits=4, strategy="group", group_size=GROUP, **INT),
    "w4a16 channel": compress("pack-quantized", num_bits=4, strategy="channel", **INT),
    "w4a16 zeros": compress(
        "pack-quantized", num_bits=4, strategy="group", group_size=GROUP, type="int", symmetric=False
    ),
    "w8a16 group": compress("pack-quantized", num_bits=8, strategy="group", group_size=GROUP, **INT),
    "w8a16 zeros": compress("pack-quantized", num_bits=8, strategy="channel", type="int", symmetric=False),
    "w3a16": compress("pack-quantized", num_bits=3, strategy="group", group_size=GROUP, **INT),
    "w8a8 int": compress("int-quantized", num_bits=8, strategy="channel", **INT),
    "w8a8 int zeros": compress("int-quantized", num_bits=8, strategy="channel", type="int", symmetric=False),
    "w8a8 float": compress("float-quantized", num_bits=8, strategy="channel", **FLOAT),
    "w8a8 float tensor": compress("float-quantized", num_bits=8, strategy="tensor", **FLOAT),
    "w8a8 float block": compress(
        "float-quantized", num_bits=8, strategy="block", block_structure=[32, 32], **FLOAT
    ),
    "nvfp4": compress("nvfp4-pack-quantized", num_bits=4, strategy="tensor_group", group_size=16, **FLOAT),
    "mxfp4": compress("mxfp4-pack-quantized", num_bits=4, strategy="group", group_size=32, **FLOAT),
    "mxfp8": compress(
        "mxfp8-quantized", num_bits=8, strategy="group", group_size=32, scale_dtype="torch.uint8", **FLOAT
    ),
    "awq": (
        {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"},
        awq,
    ),
    "gptq": (gptq_config(), gptq(4)),
    "gptq act-order": (gptq_config(desc_act=True), gptq(4, act_order=True)),
    "gptq v2": (gptq_config(checkpoint_format="gptq_v2"), gptq(4, version=2)),
    "gptq symmetric": (gptq_config(sym=True), gptq(4, symmetric=True)),
    "gptq 8 bits": (gptq_config(8), gptq(8)),
    "gptq 3 bits": (gptq_config(3), gptq(3, act_order=True)),
    "gptq 2 bits": (gptq_config(2), gptq(2)),
    "fp8 blocks": (FP8 | {"weight_block_size": [32, 32]}, fp8(32, 32)),
    "fp8 exponents": (FP8 | {"weight_block_size": [16, 32]}, fp8(16, 32, dtype=torch.float8_e8m0fnu)),
    "fp8 tensor": (FP8, fp8(1 << 20, 1 << 20, ".weight_scale")),
    "fp8 channel": ({"quant_method": "fbgemm_fp8"}, fp8(1, 1 << 20, ".weight_scale")),
    "modelopt fp8": (
        {"quant_method": "modelopt", "quant_algo": "FP8"},
        fp8(1 << 20, 1 << 20, ".weight_scale"),
    ),
    "modelopt nvfp4": ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, modelopt),
    "bitsandbytes nf4": (BNB, bitsandbytes("nf4", nested=False)),
    "bitsandbytes nf4 nested": (BNB, bitsandbytes("nf4", nested=True)),
    "bitsandbytes fp4": (BNB, bitsandbytes("fp4", nested=False)),
    "bitsandbytes int8": (BNB | {"load_in_4bit": False, "load_in_8bit": True}, eight_bits),
}
MODELS = {
    "dense": ("qwen3", {"intermediate_size": 128}),
    "experts": ("qwen3_moe", {"moe_intermediate_size": 64}),
}


@pytest.fixture(autouse=True)
def plain_products(monkeypatch: pytest.MonkeyPatch) -> None:
    multiply_plainly(monkeypatch)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: save(root / name, family, **changes) for name, (family, changes) in MODELS.items()}


@pytest.mark.parametrize("name", CASES)
def test_a_weight_stands_for_the_reference_s_numbers(name: str, models: dict[str, Path], tmp_path: Path):
    config, store = CASES[name]
    stored, plain = quantize(models["dense"], tmp_path, config, store)
    wanted = load_file(plain / WEIGHTS)
    found = read_checkpoint(stored).tensors
    assert found.keys() == wanted.keys()
    with ExitStack() as exits:
        read = {key: entry.read(OpenFiles(exits)) for key, entry in found.items()}
    kept = {key for key, tensor in read.items() if isinstance(tensor, StoredWeight)}
    assert kept == {key for key in wanted if "proj" in key}
    for key, tensor in read.items():
        assert tensor.shape == found[key].shape == wanted[key].shape
        # The scales of NVFP4 come before the factor of the whole tensor, not after it.
        close = 2**-22 if "nvfp4" in name else 0.0
        torch.testing.assert_close(dense(tensor), wanted[key], rtol=close, atol=0.0)


@pytest.mark.parametrize("name", CASES)
def test_a_quantized_model_computes_what_its_numbers_do(name: str, models: dict[str, Path], tmp_path: Path):
    stored, plain = quantize(models["experts"], tmp_path, *CASES[name])
    torch.testing.assert_close(logits(decoder(stored)), logits(decoder(plain)), rtol=1e-3, atol=1e-3)


def test_experts_in_one_tensor_have_a_grid_of_scales_each(tmp_path: Path):
    weights = torch.randn(3, 64, 96, generator=torch.Generator().manual_seed(4))
    parts, numbers = zip(*map(fp8(32, 32), weights), strict=True)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    tensors = {
        name: torch.stack([part[".weight"] for part in parts]),
        f"{name}_scale_inv": torch.stack([part[".weight_scale_inv"] for part in parts]),
    }
    save_file(tensors, tmp_path / WEIGHTS)
    config = {"model_type": "qwen3_moe", "quantization_config": FP8 | {"weight_block_size": [32, 32]}}
    (tmp_path / CONFIG).write_text(json.dumps(config))
    entry = read_checkpoint(tmp_path).tensors[name]
    with ExitStack() as exits:
        assert torch.equal(dense(entry.read(OpenFiles(exits))), torch.stack(numbers))


def test_gpt_oss_keeps_its_experts_as_they_are(tmp_path: Path):
    path = save(tmp_path / "model", "gpt_oss")
    stored, plain = quantize(path, tmp_path, {"quant_method": "mxfp4"}, mxfp4, suffix="")
    wanted = load_file(plain / WEIGHTS)
    with ExitStack() as exits:
        files = OpenFiles(exits)
        for key, entry in read_checkpoint(stored).tensors.items():
            assert torch.equal(dense(entry.read(files)), wanted[key])
    for fused in (True, False):
        found, wanted = (texts(decoder(each, fused=fused), PROMPTS) for each in (stored, plain))
        assert found == wanted
