"""Weights of eight-bit floats, float8_e4m3fn, with scales: DeepSeek's and Qwen's, FBGEMM's, one for a tensor.

    weight             (…, out, in)
    weight_scale_inv   (…, out / 128, in / 128), by which the weights are multiplied; or
    weight_scale       of the tensor, or (out, 1)

Scales of activations, which some checkpoints have, are not used: activations stay floats.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import gcd

import torch
from torch import Tensor

from neuron.models.formats.scaled_codes import ScaledCodes
from neuron.models.matrix import Matrix
from neuron.models.quantized.codes import FLOATS
from neuron.models.quantized.scheme import CACHE_SCALES, Parts, QuantizedEntry, SchemeSettings, check_part

SCALES = (*FLOATS, "F8_E8M0", "U8")  # the last two are exponents
Grid = tuple[int, int]  # outputs and inputs that have one scale


class Fp8:
    """A `neuron.models.quantized.scheme.Scheme`."""

    suffixes = "", "_scale_inv", "_scale"
    weight_suffix = ""
    unused = ".input_scale", ".activation_scale", *CACHE_SCALES

    def __init__(self, settings: SchemeSettings) -> None:
        settings.one_of("fmt", ("e4m3", "float8_e4m3fn"), default="e4m3")
        has_blocks = settings.values.get("weight_block_size") is not None
        self._grid = read_grid(settings, "weight_block_size") if has_blocks else None

    def entry(self, module: str, parts: Parts) -> QuantizedEntry | None:
        scale = next((suffix for suffix in ("_scale_inv", "_scale") if suffix in parts), None)
        if "" not in parts or (scale is None and not parts[""].dtype.startswith("F8")):
            return None
        grid = self._grid if scale == "_scale_inv" else None
        used = {name: part for name, part in parts.items() if name in {"", scale}}
        return float8_entry(module, used, "", scale or "_scale", grid, key="weight_block_size")


def read_grid(settings: SchemeSettings, key: str) -> Grid:
    """Return how many outputs and inputs have one scale. Raises ModelLoadError."""
    block = settings.values.get(key)
    if not isinstance(block, list) or len(block) != 2 or not all(type(n) is int and n > 0 for n in block):
        raise settings.refused(key, f"is {block!r:.100}, but must be two sizes")
    return block[0], block[1]


def float8_entry(
    module: str, parts: Parts, weight: str, scale: str, grid: Grid | None, *, key: str
) -> QuantizedEntry:
    """Return the entry of a weight whose scales are of a grid, of rows, or of all: as their shape tells."""
    check_part(module, parts, weight, dtypes=["F8_E4M3"], key=key)
    *lead, out, count = (1, 1, *parts[weight].shape)[-max(2, len(parts[weight].shape)) :]
    shapes = [(*lead, out, 1), (*lead, out), (1,), (), (1, 1)]
    if grid:
        shapes = [(*lead, -(-out // grid[0]), -(-count // grid[1]))]
    check_part(module, parts, scale, dtypes=SCALES, shapes=shapes, key=key)
    kept = ScaledCodes("fp8", gcd(grid[1], count) if grid else count)
    build = partial(_build, kept, weight, scale, grid)
    return QuantizedEntry(module, parts, (*lead, out, count), kept, build)


def _build(
    kept: ScaledCodes, weight: str, scale: str, grid: Grid | None, tensors: Mapping[str, Tensor]
) -> Matrix:
    codes = tensors[weight].contiguous().view(torch.uint8)
    codes = codes.view(*[1] * (2 - codes.ndim), *codes.shape)
    scales = spread(float_scales(tensors[scale]), tuple(codes.shape), grid, kept.group_size)
    return Matrix(kept, (codes, scales), None, codes.shape[-1])


def float_scales(scales: Tensor) -> Tensor:
    """Return scales as float32; bytes are exponents of two, 127 too large."""
    if scales.dtype is torch.uint8:
        scales = scales.view(torch.float8_e8m0fnu)
    return scales.float()


def spread(scales: Tensor, shape: tuple[int, ...], grid: Grid | None, group_size: int) -> Tensor:
    """Return a scale for each group of inputs of each output of a weight, (…, out, in / `group_size`).

    Without a grid there is one for each output, or one for all.
    """
    *lead, out, count = shape
    if grid is None:
        scales = scales.reshape(*lead, out, 1) if scales.numel() > 1 else scales.reshape([1] * len(shape))
        return scales.expand(*lead, out, 1).contiguous()
    rows = scales.repeat_interleave(grid[0], -2)[..., :out, :]
    return rows.repeat_interleave(grid[1] // group_size, -1)[..., : count // group_size].contiguous()
