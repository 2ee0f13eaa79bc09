"""The table of methods by which checkpoints are quantized, and the reading of such a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from neuron.models.checkpoint import CONFIG, Checkpoint, ModelLoadError, TensorEntry
from neuron.models.quantized.awq import Awq
from neuron.models.quantized.bitsandbytes import BitsAndBytes
from neuron.models.quantized.compressed_tensors import CompressedTensors
from neuron.models.quantized.fp8 import Fp8
from neuron.models.quantized.gptq import Gptq
from neuron.models.quantized.modelopt import ModelOpt
from neuron.models.quantized.mxfp4 import Mxfp4
from neuron.models.quantized.scheme import Scheme, SchemeSettings

SCHEMES: dict[str, Callable[[SchemeSettings], Scheme]] = {
    "awq": Awq,
    "bitsandbytes": BitsAndBytes,
    "compressed-tensors": CompressedTensors,
    "fbgemm_fp8": Fp8,
    "fp8": Fp8,
    "gptq": Gptq,
    "modelopt": ModelOpt,
    "mxfp4": Mxfp4,
}
_KEYS = ("quantization_config", "compression_config")  # the second is the first's name in old checkpoints


def read_quantized(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint whose quantized weights read as such, and whose configuration says nothing of them.

    Raises ModelLoadError that names file and key where the configuration is of no known method, or says
    otherwise than the tensors.
    """
    config, found = _without_quantization(checkpoint.config)
    checkpoint = replace(checkpoint, config=config)
    if not found:
        return checkpoint
    place, values = next(iter(found.items()))
    settings = _settings(checkpoint, place, values)
    is_old = place.endswith("compression_config")
    method = settings.one_of("quant_method", SCHEMES, "compressed-tensors" if is_old else None)
    return replace(checkpoint, tensors=_quantized(checkpoint, SCHEMES[method](settings), settings))


def _without_quantization(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a configuration without what it says of quantization, and that by place; null says nothing."""
    found: dict[str, Any] = {}
    rest = dict(config)
    for key in _KEYS:
        if (values := rest.pop(key, None)) is not None:
            found[key] = values
    text = rest.get("text_config")
    if isinstance(text, dict):
        rest["text_config"], inner = _without_quantization(text)
        found |= {f"text_config.{key}": values for key, values in inner.items()}
    return rest, found


def _settings(checkpoint: Checkpoint, place: str, values: Any) -> SchemeSettings:
    file = checkpoint.path / CONFIG
    if not isinstance(values, dict):
        cause = f"{place} is {values!r:.100}, but must be an object with quant_method, or null"
        raise ModelLoadError("model_broken", f"{file}: {cause}")
    return SchemeSettings(file, place, values)


def _quantized(checkpoint: Checkpoint, scheme: Scheme, settings: SchemeSettings) -> dict[str, TensorEntry]:
    modules: dict[str, dict[str, TensorEntry]] = {}
    tensors: dict[str, TensorEntry] = {}
    for name, entry in checkpoint.tensors.items():
        found = [suffix for suffix in scheme.suffixes if name.endswith(suffix)]
        if found:
            suffix = max(found, key=len)
            modules.setdefault(name.removesuffix(suffix), {})[suffix] = entry
        elif not name.endswith(scheme.unused):
            tensors[name] = entry
    is_quantized = False
    for module, parts in modules.items():
        if quantized := scheme.entry(module, parts):
            tensors[module + scheme.weight_suffix] = quantized
            is_quantized = True
        else:
            tensors |= {module + suffix: part for suffix, part in parts.items()}
    if not is_quantized:
        method = settings.values.get("quant_method")
        cause = f"is {method!r}, but no tensor is stored so; remove {settings.place} if the weights are plain"
        raise settings.refused("quant_method", cause)
    return tensors
