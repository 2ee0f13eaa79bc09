"""GPTQ (arXiv 2210.17323), as AutoGPTQ and GPTQModel store it.

qweight   int32 (in · bits / 32, out): codes of an output, packed along its inputs
qzeros    int32 (groups, out · bits / 32): zeros, one less than they are unless the format is gptq_v2
scales    (groups, out)
g_idx     int32 (in,): the group of each input, which are in no order with act-order ("desc_act")
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from neuron.models.formats.scaled_codes import ScaledCodes
from neuron.models.matrix import Matrix
from neuron.models.quantized.codes import FLOATS, column_codes, group_order, integer_format, integers, unpack
from neuron.models.quantized.scheme import (
    Parts,
    QuantizedEntry,
    SchemeSettings,
    check_groups,
    check_part,
    part_of,
)

_BITS = (2, 3, 4, 8)


class Gptq:
    """A `neuron.models.quantized.scheme.Scheme`."""

    suffixes = ".qweight", ".qzeros", ".scales", ".g_idx"
    weight_suffix = ".weight"
    unused = ()

    def __init__(self, settings: SchemeSettings) -> None:
        self._bits = settings.one_of("bits", _BITS)
        self._group_size = settings.size("group_size", 128)
        version = settings.one_of("checkpoint_format", ("gptq", "gptq_v2"), "gptq")
        self._offset = 1 if version == "gptq" else 0
        modules = settings.values.get("dynamic") or {}
        if not isinstance(modules, dict) or not all(name.startswith("-:") for name in modules):
            raise settings.refused("dynamic", "gives modules bits of their own, which does not run")

    def entry(self, module: str, parts: Parts) -> QuantizedEntry | None:
        bits = self._bits
        words, out = _shape(part_of(module, parts, ".qweight").shape)
        count = words * 32 // bits
        size = count if self._group_size == -1 else self._group_size
        groups = -(-count // size)
        check_part(module, parts, ".qweight", dtypes=["I32"], shapes=[(count * bits // 32, out)], key="bits")
        check_part(module, parts, ".scales", dtypes=FLOATS, shapes=[(groups, out)], key="group_size")
        zeros = [(groups, out * bits // 32)]
        check_part(module, parts, ".qzeros", dtypes=["I32"], shapes=zeros, key="bits")
        if ".g_idx" in parts:
            check_part(module, parts, ".g_idx", dtypes=["I32", "I64"], shapes=[(count,)], key="bits")
        check_groups(module, parts, count, size)
        kept = integer_format(bits, size, has_zeros=True)
        return QuantizedEntry(module, parts, (out, count), kept, partial(self._build, kept))

    def _build(self, kept: ScaledCodes, tensors: Mapping[str, Tensor]) -> Matrix:
        words, scales = tensors[".qweight"], tensors[".scales"].t()
        order = group_order(tensors.get(".g_idx"), kept.group_size)
        codes = column_codes(words, self._bits, len(words) * 32 // self._bits, order)
        zeros = unpack(tensors[".qzeros"], self._bits, len(scales)).t() + self._offset
        return integers(kept, self._bits, codes, scales, zeros, order)


def _shape(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[0], shape[1]) if len(shape) == 2 else (0, 0)
