"""MXFP4 (OCP Microscaling Formats 1.0) as gpt-oss stores the weights of all experts of a layer.

    gate_up_proj_blocks   uint8 (experts, out, in / 32, 16): codes, the first of two in a byte's lower half
    gate_up_proj_scales   uint8 (experts, out, in / 32): exponents of two, 127 too large

Rows of gate and up take turns, as they do in transformers' module, which has them transposed.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from neuron.models.matrix import Matrix
from neuron.models.quantized.microscaled import MXFP4, mxfp4_matrix
from neuron.models.quantized.scheme import Parts, QuantizedEntry, SchemeSettings, check_part, part_of


class Mxfp4:
    """A `neuron.models.quantized.scheme.Scheme`."""

    suffixes = "_blocks", "_scales"
    weight_suffix = ""
    unused = ()

    def __init__(self, _: SchemeSettings) -> None:
        pass

    def entry(self, module: str, parts: Parts) -> QuantizedEntry | None:
        *lead, groups, _ = (1, 1, *part_of(module, parts, "_blocks").shape)[-4:]
        key = "quant_method"
        check_part(module, parts, "_blocks", dtypes=["U8"], shapes=[(*lead, groups, 16)], key=key)
        check_part(module, parts, "_scales", dtypes=["U8"], shapes=[(*lead, groups)], key=key)
        *experts, out = lead
        return QuantizedEntry(module, parts, (*experts, 32 * groups, out), MXFP4, _build, is_transposed=True)


def _build(tensors: Mapping[str, Tensor]) -> Matrix:
    return mxfp4_matrix(tensors["_blocks"].flatten(-2), tensors["_scales"])
