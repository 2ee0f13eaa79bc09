"""compressed-tensors, which LLM Compressor writes: groups of the configuration say how modules are stored.

    format                  tensors
    pack-quantized          weight_packed int32 (out, in · bits / 32), weight_scale, weight_shape,
                            weight_zero_point int32 (out · bits / 32, groups) unless symmetric,
                            weight_g_idx (in,) where the order of inputs is not that of groups
    int-quantized           weight int8, weight_scale, weight_zero_point int8 unless symmetric
    float-quantized         weight float8_e4m3fn, weight_scale
    mxfp8-quantized         the same with exponents of two for scales
    nvfp4-pack-quantized    weight_packed uint8 (out, in / 2), weight_scale float8_e4m3fn (out, in / 16),
                            weight_global_scale, by which scales are divided
    mxfp4-pack-quantized    weight_packed uint8 (out, in / 2), weight_scale uint8 (out, in / 32)

The format is told by the tensors' types, which a group must agree with. Activations stay floats here, also
where the configuration quantizes them (W8A8): their scales are not used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import regex
import torch
from torch import Tensor

from neuron.models.checkpoint import model_broken
from neuron.models.formats.scaled_codes import ScaledCodes
from neuron.models.matrix import Matrix
from neuron.models.quantized.codes import FLOATS, group_order, integer_format, integers, row_codes, unpack
from neuron.models.quantized.fp8 import Grid, float8_entry, read_grid, spread
from neuron.models.quantized.microscaled import MXFP4, NVFP4, mxfp4_matrix, nvfp4_matrix
from neuron.models.quantized.scheme import (
    CACHE_SCALES,
    Parts,
    QuantizedEntry,
    SchemeSettings,
    check_groups,
    check_part,
    part_of,
)

_PACKED, _WEIGHT, _SCALE = ".weight_packed", ".weight", ".weight_scale"
_ZEROS, _GROUPS, _SHAPE, _GLOBAL = (
    ".weight_zero_point",
    ".weight_g_idx",
    ".weight_shape",
    ".weight_global_scale",
)
_CODES = {"I8", "U8", "I32", "F8_E4M3", "F8_E5M2"}
_STRATEGIES = ("tensor", "channel", "group", "tensor_group", "block")
_BITS = range(1, 9)
_PATTERN_S = 1.0  # for a stranger's pattern on one name


@dataclass(frozen=True, slots=True)
class _Group:
    """How the modules that are targets of a group of the configuration are stored."""

    targets: tuple[str, ...]
    key: str
    bits: int
    is_float: bool
    strategy: str
    group_size: int  # of inputs, -1 for all
    grid: Grid | None

    def inputs_of_scale(self, count: int) -> int:
        return count if self.group_size == -1 else self.group_size


class CompressedTensors:
    """A `neuron.models.quantized.scheme.Scheme`."""

    suffixes = _PACKED, _SCALE, _ZEROS, _GROUPS, _SHAPE, _GLOBAL, _WEIGHT
    weight_suffix = _WEIGHT
    unused = ".input_scale", ".input_zero_point", ".input_global_scale", *CACHE_SCALES

    def __init__(self, settings: SchemeSettings) -> None:
        for key in ("sparsity_config", "transform_config"):
            value = settings.values.get(key)
            if value and not (isinstance(value, dict) and value.get("format") == "dense"):
                raise settings.refused(key, "is set, which does not run; a checkpoint without it would")
        groups = settings.values.get("config_groups")
        if not isinstance(groups, dict) or not groups:
            raise settings.refused("config_groups", "must be an object of groups of modules")
        self._groups = list(_read_groups(settings, groups))
        self._settings = settings

    def entry(self, module: str, parts: Parts) -> QuantizedEntry | None:
        if _PACKED not in parts and (_WEIGHT not in parts or parts[_WEIGHT].dtype not in _CODES):
            if _SCALE in parts:
                cause = f"{module}{_SCALE} is there, but the weight beside it is not quantized"
                raise model_broken(parts[_SCALE].file, cause)
            return None
        group = self._group(module)
        if _PACKED not in parts:
            return _plain_codes(module, parts, group)
        if parts[_PACKED].dtype == "U8":
            return _four_bit_floats(module, parts, group)
        return _packed_integers(module, parts, group)

    def _group(self, module: str) -> _Group:
        """Return the group that names a module most closely, as compressed-tensors itself orders them."""
        for matches in (_names, _describes, _is_class):
            for group in self._groups:
                try:
                    if any(matches(target, module) for target in group.targets):
                        return group
                except TimeoutError as error:
                    cause = f"has a pattern that takes too long for {module}"
                    raise self._settings.refused("config_groups", cause) from error
        raise self._settings.refused("config_groups", f"has no target for {module}, which is quantized")


def _names(target: str, module: str) -> bool:
    return target == module


def _describes(target: str, module: str) -> bool:
    pattern = target.removeprefix("re:")
    return pattern != target and regex.match(pattern, module, timeout=_PATTERN_S) is not None


def _is_class(target: str, _: str) -> bool:
    return target == "Linear"


def _read_groups(settings: SchemeSettings, groups: Mapping[str, Any]) -> Iterator[_Group]:
    for name, group in groups.items():
        key = f"config_groups.{name}"
        if not isinstance(group, dict) or not isinstance(group.get("weights") or {}, dict):
            raise settings.refused(key, "must be an object with weights")
        if not group.get("weights"):
            continue  # it is of activations
        targets = group.get("targets")
        if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
            raise settings.refused(f"{key}.targets", "must be a list of names")
        _check_patterns(settings, key, targets)
        weights = SchemeSettings(settings.file, f"{settings.place}.{key}.weights", group["weights"])
        strategy = weights.one_of("strategy", _STRATEGIES, _strategy(weights.values.get("group_size")))
        yield _Group(
            targets=tuple(targets),
            key=f"{key}.weights",
            bits=weights.one_of("num_bits", _BITS, 8),
            is_float=weights.one_of("type", ("int", "float"), "int") == "float",
            strategy=strategy,
            group_size=weights.size("group_size") if strategy in {"group", "tensor_group"} else -1,
            grid=read_grid(weights, "block_structure") if strategy == "block" else None,
        )


def _strategy(group_size: Any) -> str:
    """Return the strategy of weights that name none."""
    if group_size is None:
        return "tensor"
    return "channel" if group_size == -1 else "group"


def _check_patterns(settings: SchemeSettings, key: str, targets: list[str]) -> None:
    for target in targets:
        if target.startswith("re:"):
            try:
                regex.compile(target.removeprefix("re:"))
            except regex.error as error:
                raise settings.refused(f"{key}.targets", f"has {target!r}, no pattern: {error}") from error


# --- integers ---------------------------------------------------------------------------------------------


def _packed_integers(module: str, parts: Parts, group: _Group) -> QuantizedEntry:
    if group.is_float or group.strategy == "block":
        check_part(module, parts, _PACKED, dtypes=["U8"], key=f"{group.key}.type")
    out, words = _two(parts[_PACKED].shape)
    scale_shape = _two(part_of(module, parts, _SCALE).shape)
    count = words * 32 // group.bits
    if group.group_size != -1:
        count = scale_shape[1] * group.group_size
    packed = -(-count * group.bits // 32)
    check_part(module, parts, _PACKED, dtypes=["I32"], shapes=[(out, packed)], key=f"{group.key}.num_bits")
    size = group.inputs_of_scale(count)
    scales = _scale_shapes(group, out, count)
    check_part(module, parts, _SCALE, dtypes=FLOATS, shapes=scales, key=group.key)
    _check_zeros(module, parts, group, (out, count))
    if _GROUPS in parts:
        check_part(module, parts, _GROUPS, dtypes=["I32"], shapes=[(count,)], key=group.key)
    check_groups(module, parts, count, size)
    kept = integer_format(group.bits, size, has_zeros=_ZEROS in parts)
    return QuantizedEntry(
        module, parts, (out, count), kept, partial(_unpacked, kept, group.bits, (out, count))
    )


def _unpacked(kept: ScaledCodes, bits: int, shape: tuple[int, int], tensors: Mapping[str, Tensor]) -> Matrix:
    out, count = shape
    if _SHAPE in tensors:
        count = _stored_count(tensors, kept, bits, shape)
        kept = replace(kept, group_size=count) if kept.group_size == shape[1] else kept
    order = group_order(tensors.get(_GROUPS), kept.group_size)
    codes = row_codes(tensors[_PACKED], bits, count, order)
    scales = _scales(kept, tensors, (out, count))
    return integers(kept, bits, codes, scales, _zeros(tensors, scales, bits), order)


def _stored_count(tensors: Mapping[str, Tensor], kept: ScaledCodes, bits: int, shape: tuple[int, int]) -> int:
    """Return the number of inputs, which the packed words of a row may have room for more of."""
    stored = tensors[_SHAPE].flatten().tolist()
    out, count = shape
    fits = len(stored) == 2 and stored[0] == out and -(-stored[1] * bits // 32) == -(-count * bits // 32)
    if not fits or (kept.group_size != count and stored[1] != count):
        raise ValueError(f"its weight_shape is {stored}, but its weight_packed has room for {list(shape)}")
    return int(stored[1])


def _scales(kept: ScaledCodes, tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
    """Return a scale for each group of each output, whatever has one in the file."""
    scales = tensors[_SCALE].float()
    return spread(scales, shape, None, kept.group_size) if kept.group_size == shape[1] else scales


def _zeros(tensors: Mapping[str, Tensor], scales: Tensor, bits: int) -> Tensor | None:
    """Return the zeros, (out, groups) uint8: packed along outputs, or each a byte that is signed."""
    zeros = tensors.get(_ZEROS)
    if zeros is None:
        return None
    if zeros.dtype is torch.int32:
        return unpack(zeros.t(), bits, len(scales)).t()
    unsigned = (zeros.int() + (1 << bits - 1)).to(torch.uint8)
    return unsigned.view(-1, scales.shape[1]).expand_as(scales)


def _check_zeros(module: str, parts: Parts, group: _Group, shape: tuple[int, int]) -> None:
    if _ZEROS not in parts:
        return
    shapes = _scale_shapes(group, *shape)
    if parts[_ZEROS].dtype == "I32":
        shapes = [(-(-shape[0] * group.bits // 32), *each[1:]) for each in shapes if each]
    check_part(module, parts, _ZEROS, dtypes=["I8", "I32"], shapes=shapes, key=f"{group.key}.symmetric")


def _plain_codes(module: str, parts: Parts, group: _Group) -> QuantizedEntry:
    used = {suffix: part for suffix, part in parts.items() if suffix != _ZEROS or not group.is_float}
    if group.is_float:
        grid = group.grid if group.group_size == -1 else (1, group.group_size)
        return float8_entry(module, used, _WEIGHT, _SCALE, grid, key=group.key)
    out, count = shape = _two(parts[_WEIGHT].shape)
    check_part(module, parts, _WEIGHT, dtypes=["I8"], key=f"{group.key}.type")
    part_of(module, parts, _SCALE)
    check_part(module, parts, _SCALE, dtypes=FLOATS, shapes=_scale_shapes(group, out, count), key=group.key)
    _check_zeros(module, parts, group, shape)
    size = group.inputs_of_scale(count)
    check_groups(module, parts, count, size)
    kept = integer_format(8, size, has_zeros=_ZEROS in parts)
    return QuantizedEntry(module, used, shape, kept, partial(_signed, kept))


def _signed(kept: ScaledCodes, tensors: Mapping[str, Tensor]) -> Matrix:
    codes = tensors[_WEIGHT].view(torch.uint8) ^ 0x80  # 128 more
    scales = _scales(kept, tensors, codes.shape)
    return integers(kept, 8, codes, scales, _zeros(tensors, scales, 8))


def _scale_shapes(group: _Group, out: int, count: int) -> list[tuple[int, ...]]:
    if group.group_size == -1:
        return [(1,), (), (1, 1)] if group.strategy == "tensor" else [(out, 1), (out,)]
    return [(out, -(-count // group.group_size))]


def _two(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[0], shape[1]) if len(shape) == 2 else (0, 0)


# --- four-bit floats --------------------------------------------------------------------------------------


def _four_bit_floats(module: str, parts: Parts, group: _Group) -> QuantizedEntry:
    out, half = _two(parts[_PACKED].shape)
    if not group.is_float or group.bits != 4:
        check_part(module, parts, _PACKED, dtypes=["I32"], key=f"{group.key}.type")
    key = f"{group.key}.group_size"
    if group.group_size == 32:
        check_part(module, parts, _SCALE, dtypes=["U8", "F8_E8M0"], shapes=[(out, half // 16)], key=key)
        return QuantizedEntry(module, parts, (out, 2 * half), MXFP4, _mxfp4)
    check_groups(module, parts, 2 * half, NVFP4.elements)
    check_part(module, parts, _SCALE, dtypes=["F8_E4M3"], shapes=[(out, half // 8)], key=key)
    check_part(module, parts, _GLOBAL, dtypes=FLOATS, shapes=[(1,), ()], key=key)
    return QuantizedEntry(module, parts, (out, 2 * half), NVFP4, _nvfp4)


def _mxfp4(tensors: Mapping[str, Tensor]) -> Matrix:
    return mxfp4_matrix(tensors[_PACKED], tensors[_SCALE].view(torch.uint8))


def _nvfp4(tensors: Mapping[str, Tensor]) -> Matrix:
    return nvfp4_matrix(tensors[_PACKED], tensors[_SCALE], 1 / tensors[_GLOBAL].float())
