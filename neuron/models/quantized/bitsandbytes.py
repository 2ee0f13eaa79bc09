"""bitsandbytes: NF4 and FP4 (QLoRA, arXiv 2305.14314), and eight bits (LLM.int8(), arXiv 2208.07339).

weight                                     uint8 (out · in / 2, 1): the first of two codes in the upper half
weight.absmax                              a scale for each `blocksize` codes, or its code
weight.quant_map                           the values of the 16 codes
weight.nested_absmax, .nested_quant_map    of scales that are codes themselves
weight.quant_state.bitsandbytes__nf4       JSON as bytes: shape, blocksize, nested_blocksize, nested_offset

weight, SCB, weight_format                 int8 (out, in), with 127 times the scale of each output
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from math import gcd
from typing import Any

import torch
from torch import Tensor

from neuron.models.checkpoint import ModelLoadError, OpenFiles, TensorEntry, model_broken
from neuron.models.formats.scaled_codes import TABLES, ScaledCodes
from neuron.models.matrix import Matrix
from neuron.models.quantized.codes import integer_format, integers
from neuron.models.quantized.scheme import Parts, QuantizedEntry, SchemeSettings, check_part

_WEIGHT, _SCALE, _MAP = ".weight", ".weight.absmax", ".weight.quant_map"
_NESTED_SCALE, _NESTED_MAP = ".weight.nested_absmax", ".weight.nested_quant_map"
_STATES = {kind: f".weight.quant_state.bitsandbytes__{kind}" for kind in ("nf4", "fp4")}
_ROW_SCALE, _LAYOUT = ".SCB", ".weight_format"


class BitsAndBytes:
    """A `neuron.models.quantized.scheme.Scheme`."""

    suffixes = (*_STATES.values(), _NESTED_SCALE, _NESTED_MAP, _SCALE, _MAP, _ROW_SCALE, _LAYOUT, _WEIGHT)
    weight_suffix = _WEIGHT
    unused = ()

    def __init__(self, settings: SchemeSettings) -> None:
        is_known = any(settings.values.get(key) for key in ("load_in_4bit", "load_in_8bit"))
        if not is_known:
            raise settings.refused("load_in_4bit", "is not set, nor is load_in_8bit; set one of them")
        storage = settings.values.get("bnb_4bit_quant_storage") or "uint8"
        if settings.values.get("load_in_4bit") and storage != "uint8":
            cause = f"is {storage!r}, which does not run; uint8 would"
            raise settings.refused("bnb_4bit_quant_storage", cause)

    def entry(self, module: str, parts: Parts) -> QuantizedEntry | None:
        kind = next((kind for kind, suffix in _STATES.items() if suffix in parts), None)
        if kind is not None:
            return _four_bits(module, parts, kind)
        if _ROW_SCALE not in parts:
            return None
        key = "load_in_8bit"
        check_part(module, parts, _WEIGHT, dtypes=["I8"], key=key)
        shape = parts[_WEIGHT].shape
        check_part(module, parts, _ROW_SCALE, dtypes=["F32"], shapes=[shape[:1]], key=key)
        kept = integer_format(8, shape[-1], has_zeros=False)
        used = {suffix: part for suffix, part in parts.items() if suffix != _LAYOUT}
        return QuantizedEntry(module, used, shape, kept, partial(_eight_bits, kept))


def _eight_bits(kept: ScaledCodes, tensors: Mapping[str, Tensor]) -> Matrix:
    codes = tensors[_WEIGHT].view(torch.uint8) ^ 0x80  # 128 more
    return integers(kept, 8, codes, tensors[_ROW_SCALE].unsqueeze(-1) / 127, None)


def _four_bits(module: str, parts: Parts, kind: str) -> QuantizedEntry:
    state = _read_state(module, parts[_STATES[kind]])
    out, count = state["shape"]
    values, size = out * count, state["blocksize"]
    blocks = -(-values // size)
    key = "load_in_4bit"
    check_part(module, parts, _WEIGHT, dtypes=["U8"], shapes=[(-(-values // 2), 1)], key=key)
    check_part(module, parts, _MAP, dtypes=["F32"], shapes=[(16,)], key=key)
    nested = _NESTED_SCALE in parts
    check_part(module, parts, _SCALE, dtypes=["U8"] if nested else ["F32"], shapes=[(blocks,)], key=key)
    if nested:
        check_part(module, parts, _NESTED_MAP, dtypes=["F32"], shapes=[(256,)], key=key)
        outer = [(-(-blocks // state["nested_blocksize"]),)]
        check_part(module, parts, _NESTED_SCALE, dtypes=["F32"], shapes=outer, key=key)
    kept = ScaledCodes(kind, gcd(count, size))
    if kept.group_size % 2:
        cause = f"{module} has {count} inputs, an odd number, which does not run"
        raise ModelLoadError("model_unsupported", f"{parts[_WEIGHT].file}: {cause}")
    used = {suffix: part for suffix, part in parts.items() if suffix != _STATES[kind]}
    build = partial(_from_blocks, kept, state)
    return QuantizedEntry(module, used, (out, count), kept, build)


def _from_blocks(kept: ScaledCodes, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Matrix:
    wanted = torch.tensor(TABLES[kept.name])
    if not torch.equal(tensors[_MAP], wanted):
        raise ValueError(f"its quant_map is not that of {kept.name}, the only one that runs")
    out, count = state["shape"]
    packed = tensors[_WEIGHT].view(out, count // 2)
    scales = tensors[_SCALE]
    if _NESTED_SCALE in tensors:
        outer = tensors[_NESTED_SCALE].repeat_interleave(state["nested_blocksize"])[: len(scales)]
        scales = tensors[_NESTED_MAP][scales.int()] * outer + state["nested_offset"]
    firsts = torch.arange(0, out * count, kept.group_size) // state["blocksize"]
    codes = (packed >> 4) | (packed << 4)  # the first of two is in the lower half here
    return Matrix(kept, (codes, scales[firsts].view(out, -1)), None, count)


def _read_state(module: str, entry: TensorEntry) -> dict[str, Any]:
    """Return the shape and sizes of a weight, which are stored as a tensor of JSON."""
    with ExitStack() as exits:
        data = bytes(entry.read(OpenFiles(exits)).flatten().tolist())
    try:
        state = json.loads(data)
        shape = [int(size) for size in state["shape"]]
        sizes = {key: int(state.get(key) or 256) for key in ("blocksize", "nested_blocksize")}
        known = {"shape": shape, "nested_offset": float(state.get("nested_offset") or 0.0)} | sizes
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise model_broken(entry.file, f"the quant_state of {module} is damaged: {error!r}") from error
    if len(shape) != 2 or min(*shape, *sizes.values()) < 1:
        raise model_broken(entry.file, f"the quant_state of {module} has shape {shape} and sizes {sizes}")
    return known
