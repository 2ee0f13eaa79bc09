"""Weights as each method stores them, made of random ones, with the numbers that they stand for.

What a method's own library or transformers writes and reads is done by it, and everything else as its
publication says, written anew here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from neuron.models.checkpoint import CONFIG, WEIGHTS
from neuron.models.formats.scaled_codes import TABLES

Stored = tuple[
    dict[str, Tensor], Tensor
]  # a weight's tensors by what is added to its module's name; its numbers
Method = Callable[[Tensor], Stored]
GROUP = 16


def quantize(
    path: Path, target: Path, config: Mapping[str, Any], store: Method, suffix: str = ".weight"
) -> tuple[Path, Path]:
    """Return two copies of a model: with linear weights as `store` has them, and with their numbers."""
    tensors = load_file(path / WEIGHTS)
    stored, plain = dict(tensors), dict(tensors)
    for name, weight in tensors.items():
        module = name.removesuffix(suffix)
        if name.endswith(suffix) and module.endswith("proj"):
            parts, numbers = store(weight)
            del stored[name]
            stored |= {module + part: tensor for part, tensor in parts.items()}
            plain[name] = numbers.to(weight.dtype)
    for copy, values in ((target / "stored", stored), (target / "plain", plain)):
        copy.mkdir(parents=True)
        save_file({name: tensor.contiguous() for name, tensor in values.items()}, copy / WEIGHTS)
        settings = json.loads((path / CONFIG).read_text())
        if copy.name == "stored":
            settings["quantization_config"] = config
        (copy / CONFIG).write_text(json.dumps(settings))
    return target / "stored", target / "plain"


# --- compressed-tensors -----------------------------------------------------------------------------------


def compressed_config(form: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "quantization_status": "compressed",
    }


def compressed(form: str, **weights: Any) -> Method:
    """Return what compresses as the library does."""
    args = QuantizationArgs(**weights)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    compressor = BaseCompressor.get_value_from_registry(form)

    def store(weight: Tensor) -> Stored:
        state = {"weight": weight, **_observed(weight, args)}
        parts = compressor.compress(state, scheme)
        if form == "nvfp4-pack-quantized":  # whose own way back ends in bfloat16
            codes = unpack_fp4_from_uint8(parts["weight_packed"], *weight.shape, torch.float32)
            scale, overall = parts["weight_scale"].float(), parts["weight_global_scale"]
            numbers = dequantize(codes, scale, args=args, global_scale=overall)
        else:
            numbers = compressor.decompress(dict(parts), scheme)["weight"]
        return {f".{name}": tensor for name, tensor in parts.items()}, numbers

    return store


def _observed(weight: Tensor, args: QuantizationArgs) -> dict[str, Tensor]:
    """The scales and zeros of a weight: those with which its largest values can be written."""
    out, count = weight.shape
    if args.strategy == "block":
        rows, columns = args.block_structure
        padded = torch.nn.functional.pad(weight, (0, -count % columns, 0, -out % rows))
        blocks = padded.view(padded.shape[0] // rows, rows, -1, columns)
        return {"weight_scale": blocks.abs().amax((1, 3)) / 448}
    size = {"tensor": None, "channel": count}.get(args.strategy, args.group_size)
    groups = weight.view(1, -1) if size is None else weight.view(out, -1, size)
    highest = groups.abs().amax(-1).view(-1) if size is None else groups.abs().amax(-1)
    if args.type == "float":
        if args.num_bits == 8:
            scale = highest / 448
            return {"weight_scale": scale.log2().ceil().exp2() if args.group_size == 32 else scale}
        if args.group_size == 32:
            return {"weight_scale": (highest / 6).log2().ceil().exp2()}
        overall = 448 * 6 / weight.abs().max().view(1)
        return {
            "weight_scale": (highest / 6 * overall).to(torch.float8_e4m3fn).float(),
            "weight_global_scale": overall,
        }
    levels = 1 << args.num_bits
    if args.symmetric:
        return {"weight_scale": highest / (levels // 2 - 1)}
    low, high = groups.amin(-1), groups.amax(-1)
    scale = (high - low) / (levels - 1)
    zero = (-low / scale).round().clamp(0, levels - 1) - levels // 2
    return {"weight_scale": scale, "weight_zero_point": zero.to(torch.int8)}


# --- others -----------------------------------------------------------------------------------------------


def _integers(weight: Tensor, bits: int, group: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes (out, in), and scales and zeros (groups, out) for inputs that are in a `group` each."""
    top = (1 << bits) - 1
    members = [weight[:, group == number] for number in range(groups)]
    low = torch.stack([part.amin(1) for part in members]).clamp(max=0)
    high = torch.stack([part.amax(1) for part in members]).clamp(min=0)
    scales = ((high - low) / top).half()
    zeros = (-low / scales).round().clamp(1, top)
    codes = (weight / scales[group].t() + zeros[group].t()).round().clamp(0, top)
    return codes.int(), scales, zeros.int()


def _packed(values: Tensor, bits: int) -> Tensor:
    """Return (rows, n) codes as int32 words, (rows, n * bits / 32), the first in the lowest bits."""
    rows = []
    for row in values.tolist():
        whole = sum(code << bits * place for place, code in enumerate(row))
        data = whole.to_bytes(len(row) * bits // 8, "little")
        rows.append(torch.frombuffer(bytearray(data), dtype=torch.int32))
    return torch.stack(rows)


def gptq(bits: int, *, act_order: bool = False, version: int = 1, symmetric: bool = False) -> Method:
    def store(weight: Tensor) -> Stored:
        count = weight.shape[1]
        group = torch.arange(count) // 32
        if act_order:
            group = group[torch.randperm(count, generator=torch.Generator().manual_seed(count))]
        codes, scales, zeros = _integers(weight, bits, group, count // 32)
        if symmetric:
            zeros = torch.full_like(zeros, 1 << bits - 1)
        numbers = (codes - zeros[group].t()).float() * scales[group].t().float()
        return {
            ".qweight": _packed(codes, bits).t(),
            ".qzeros": _packed(zeros - (1 if version == 1 else 0), bits),
            ".scales": scales,
            ".g_idx": group.int(),
        }, numbers

    return store


def awq(weight: Tensor) -> Stored:
    group = torch.arange(weight.shape[1]) // GROUP
    codes, scales, zeros = _integers(weight, 4, group, weight.shape[1] // GROUP)
    numbers = (codes - zeros[group].t()).float() * scales[group].t().float()

    def interleaved(values: Tensor) -> Tensor:
        return values.view(len(values), -1, 8)[..., [0, 2, 4, 6, 1, 3, 5, 7]].flatten(1)

    return {
        ".qweight": _packed(interleaved(codes.t().contiguous()), 4),
        ".qzeros": _packed(interleaved(zeros), 4),
        ".scales": scales,
    }, numbers


def fp8(
    rows: int, columns: int, scale_name: str = ".weight_scale_inv", dtype: torch.dtype = torch.float32
) -> Method:
    """Return what stores floats of eight bits with a scale for so many outputs and inputs."""

    def store(weight: Tensor) -> Stored:
        out, count = weight.shape
        blocks = weight.view(-(-out // rows), min(rows, out), -(-count // columns), min(columns, count))
        scales = (blocks.abs().amax((1, 3)) / 448).log2().ceil().exp2().to(dtype)
        codes = (blocks / scales.float()[:, None, :, None]).to(torch.float8_e4m3fn).view(out, count)
        numbers = Fp8Dequantize(None)._dequantize_one(codes, scales, torch.float32)
        return {".weight": codes, scale_name: scales}, numbers

    return store


def modelopt(weight: Tensor) -> Stored:
    """NVFP4 as compressed-tensors packs it, with the whole tensor's scale the other way up."""
    form = "nvfp4-pack-quantized"
    packed = {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group", "group_size": 16}
    parts, numbers = compressed(form, **packed)(weight)
    return {
        ".weight": parts[".weight_packed"],
        ".weight_scale": parts[".weight_scale"],
        ".weight_scale_2": 1 / parts[".weight_global_scale"],
    }, numbers


def mxfp4(weight: Tensor) -> Stored:
    """Experts' weights, (experts, in, out), as gpt-oss stores them."""
    experts, count, out = weight.shape
    seeded = torch.Generator().manual_seed(out)
    blocks = torch.randint(0, 256, (experts, out, count // 32, 16), dtype=torch.uint8, generator=seeded)
    scales = torch.randint(118, 126, (experts, out, count // 32), dtype=torch.uint8, generator=seeded)
    numbers = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    return {"_blocks": blocks, "_scales": scales}, numbers


def bitsandbytes(kind: str, *, nested: bool) -> Method:
    """Return what stores a code for each value, two in a byte, with a scale for 64 values."""
    values = torch.tensor(TABLES[kind])

    def store(weight: Tensor) -> Stored:
        flat = weight.flatten().view(-1, 64)
        absmax = flat.abs().amax(1)
        state: dict[str, Any] = {"quant_type": kind, "blocksize": 64, "shape": list(weight.shape)}
        parts: dict[str, Tensor] = {}
        scale = absmax
        if nested:
            offset, map_ = absmax.mean().item(), torch.linspace(-1, 1, 256)
            outer = (
                torch.nn.functional.pad(absmax - offset, (0, -len(absmax) % 256)).view(-1, 256).abs().amax(1)
            )
            spread = outer.repeat_interleave(256)[: len(absmax)]
            absmax = ((absmax - offset) / spread)[:, None].sub(map_).abs().argmin(1).to(torch.uint8)
            scale = map_[absmax.int()] * spread + offset
            parts = {".weight.nested_absmax": outer, ".weight.nested_quant_map": map_.clone()}
            state |= {"nested_blocksize": 256, "nested_offset": offset, "nested_dtype": "float32"}
        codes = (flat / scale[:, None]).unsqueeze(-1).sub(values).abs().argmin(-1)
        numbers = values[codes] * scale[:, None]
        pairs = codes.view(-1, 2)
        encoded = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
        return parts | {
            ".weight": ((pairs[:, 0] << 4) | pairs[:, 1]).to(torch.uint8).view(-1, 1),
            ".weight.absmax": absmax,
            ".weight.quant_map": values.clone(),
            f".weight.quant_state.bitsandbytes__{kind}": encoded,
        }, numbers.view(weight.shape)

    return store


def eight_bits(weight: Tensor) -> Stored:
    highest = weight.abs().amax(1)
    codes = (weight / highest[:, None] * 127).round().to(torch.int8)
    parts = {".weight": codes, ".SCB": highest, ".weight_format": torch.tensor(0, dtype=torch.uint8)}
    return parts, codes.float() * (highest / 127)[:, None]
