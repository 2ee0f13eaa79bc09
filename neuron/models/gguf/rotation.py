"""The rotary scaling of a GGUF file, as Hugging Face's configurations say it.

Scalings with parameters stand in keys. Others are tensors of divisors, one for each frequency: of Llama 3.1
and its kin `rope_freqs`, whose parameters cannot be read back and need not be; of LongRoPE one for prompts up
to the original context and one for longer ones.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from neuron.models.checkpoint import ModelLoadError, model_broken
from neuron.models.gguf.container import StoredTensor
from neuron.models.gguf.metadata import GgufKeys

DIVISORS, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
TENSORS = frozenset({DIVISORS, LONG, SHORT})
_BASE, _LOCAL_BASE = ".rope.freq_base", ".rope.freq_base_swa"
_DEFAULT_BASE = 10_000.0
_MAX_DIVISORS = 1 << 12
_SCALING = ".rope.scaling."

Tensors = Mapping[str, StoredTensor]


def read_divisors(tensors: Tensors, name: str = DIVISORS) -> list[float] | None:
    """Return the divisors of a model's frequencies; None where it has none. Raises ModelLoadError."""
    if (tensor := tensors.get(name)) is None:
        return None
    if tensor.type.name != "F32" or tensor.num_values > _MAX_DIVISORS:
        raise model_broken(tensor.file, f"{name} must be a list of F32 numbers")
    with tensor.file.open("rb") as file:
        file.seek(tensor.start)
        found = struct.unpack(f"<{tensor.num_values}f", file.read(tensor.num_bytes))
    if not all(value > 0 for value in found):
        raise model_broken(tensor.file, f"{name} holds numbers that are not positive")
    return list(found)


def rope_parameters(metadata: GgufKeys, tensors: Tensors, head_dim: int) -> dict[str, Any]:
    """Return `rope_parameters` of a configuration whose layers all rotate alike. Raises ModelLoadError."""
    found: dict[str, Any] = {"rope_type": "default", "rope_theta": metadata.number(_BASE, _DEFAULT_BASE)}
    rotated = metadata.whole(".rope.dimension_count", head_dim)
    if rotated != head_dim:
        found["partial_rotary_factor"] = rotated / head_dim
    if LONG in tensors or SHORT in tensors:
        return found | _longrope(metadata, tensors)
    kind = metadata.text(f"{_SCALING}type", "linear" if metadata.has(f"{_SCALING}factor") else "none")
    factor = metadata.number(f"{_SCALING}factor", 1.0) or 1.0
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return found
    if kind == "linear":
        return found | {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        return found | _yarn(metadata, factor)
    cause = f"{metadata.key(f'{_SCALING}type')} is {kind!r}; none, linear, yarn and longrope are read"
    raise ModelLoadError("model_unsupported", f"{metadata.path}: {cause}")


def local_rope_parameters(metadata: GgufKeys) -> dict[str, Any]:
    """Return `rope_parameters` of layers with a window, which have a base of their own."""
    return {"rope_type": "default", "rope_theta": metadata.number(_LOCAL_BASE, _DEFAULT_BASE)}


def original_context(metadata: GgufKeys) -> int | None:
    """Return the context that a model was trained with before its rotation was scaled."""
    key = f"{_SCALING}original_context_length"
    return metadata.whole(key) if metadata.has(key) else None


def _yarn(metadata: GgufKeys, factor: float) -> dict[str, Any]:
    found: dict[str, Any] = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": metadata.whole(f"{_SCALING}original_context_length"),
    }
    keys = {"attention_factor": "attn_factor", "beta_fast": "beta_fast", "beta_slow": "beta_slow"}
    for name, key in keys.items():
        if metadata.has(f"{_SCALING}yarn_{key}"):
            found[name] = metadata.number(f"{_SCALING}yarn_{key}")
    return found


def _longrope(metadata: GgufKeys, tensors: Tensors) -> dict[str, Any]:
    long, short = read_divisors(tensors, LONG), read_divisors(tensors, SHORT)
    if long is None or short is None or len(long) != len(short):
        raise model_broken(metadata.path, f"{LONG} and {SHORT} must both be there, and equally long")
    return {
        "rope_type": "longrope",
        "long_factor": long,
        "short_factor": short,
        "original_max_position_embeddings": metadata.whole(f"{_SCALING}original_context_length"),
        "attention_factor": metadata.number(f"{_SCALING}attn_factor", 1.0),
    }
