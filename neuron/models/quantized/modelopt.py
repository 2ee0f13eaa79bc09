"""NVIDIA's ModelOpt: FP8 and NVFP4.

    quant_algo   tensors
    FP8          weight float8_e4m3fn (out, in), weight_scale of the tensor
    NVFP4        weight uint8 (out, in / 2), weight_scale float8_e4m3fn (out, in / 16), weight_scale_2, which
                 scales are multiplied by

Activations stay floats: their scales are not used.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from neuron.models.matrix import Matrix
from neuron.models.quantized.codes import FLOATS
from neuron.models.quantized.fp8 import float8_entry
from neuron.models.quantized.microscaled import NVFP4, nvfp4_matrix
from neuron.models.quantized.scheme import (
    CACHE_SCALES,
    Parts,
    QuantizedEntry,
    SchemeSettings,
    check_groups,
    check_part,
)

_WEIGHT, _SCALE, _FACTOR = ".weight", ".weight_scale", ".weight_scale_2"
_KEY = "quant_algo"


class ModelOpt:
    """A `neuron.models.quantized.scheme.Scheme`."""

    suffixes = _WEIGHT, _SCALE, _FACTOR
    weight_suffix = _WEIGHT
    unused = ".input_scale", *CACHE_SCALES

    def __init__(self, settings: SchemeSettings) -> None:
        self._algorithm = settings.one_of(_KEY, ("FP8", "NVFP4"))

    def entry(self, module: str, parts: Parts) -> QuantizedEntry | None:
        if _SCALE not in parts:
            return None
        if self._algorithm == "FP8":
            return float8_entry(module, parts, _WEIGHT, _SCALE, None, key=_KEY)
        check_part(module, parts, _WEIGHT, dtypes=["U8"], key=_KEY)
        out, half = (*parts[_WEIGHT].shape, 0, 0)[:2]
        check_groups(module, parts, 2 * half, NVFP4.elements)
        check_part(module, parts, _SCALE, dtypes=["F8_E4M3"], shapes=[(out, half // 8)], key=_KEY)
        check_part(module, parts, _FACTOR, dtypes=FLOATS, shapes=[(1,), ()], key=_KEY)
        return QuantizedEntry(module, parts, (out, 2 * half), NVFP4, _build)


def _build(tensors: Mapping[str, Tensor]) -> Matrix:
    return nvfp4_matrix(tensors[_WEIGHT], tensors[_SCALE], tensors[_FACTOR])
