"""Which architectures run here, and what transformers knows of a checkpoint's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from neuron.models.checkpoint import CONFIG, Checkpoint, ModelLoadError, model_broken

# Equal to transformers' `generate`, token for token, in tests/device/test_parity.py.
TESTED_FAMILIES = (
    "gemma2",
    "gemma3_text",
    "gpt_oss",
    "llama",
    "mistral",
    "olmo",
    "olmo2",
    "olmo3",
    "phi3",
    "qwen2",
    "qwen3",
    "qwen3_moe",
)

# The same with images, in tests/device/test_vision.py. Other vision models have positions in more than one
# dimension, let the tokens of an image attend to later ones, or need torchvision: if at all, they run without
# images.
TESTED_VISION_FAMILIES = ("idefics3", "llava")

_DEFAULT_CONTEXT = 4096  # tokens, for a model that names no limit


def model_unsupported(path: Path, cause: str) -> ModelLoadError:
    """Return the error for a model that is not run, with the families that are known to run."""
    families, with_images = ", ".join(TESTED_FAMILIES), ", ".join(TESTED_VISION_FAMILIES)
    known = f"decoders that use transformers' attention interface run, tested are {families}; "
    return ModelLoadError("model_unsupported", f"{path}: {cause}; {known}with images {with_images}")


def read_config(checkpoint: Checkpoint) -> Any:
    """Return transformers' configuration object. Raises ModelLoadError when it knows none of this type."""
    file = checkpoint.path / CONFIG
    model_type = checkpoint.config["model_type"]
    if model_type not in CONFIG_MAPPING:
        cause = f"model_type {model_type!r} is unknown to transformers {transformers.__version__}"
        raise model_unsupported(file, cause)
    try:
        return CONFIG_MAPPING[model_type].from_dict(checkpoint.config)
    except Exception as error:
        raise model_broken(file, f"is no configuration of {model_type}: {error}") from error


def model_class(mapping: Any, config: Any) -> Any | None:
    """Return the class for `config` in one of transformers' mappings; None when it has none."""
    if type(config) not in mapping or config.is_encoder_decoder:
        return None
    known = mapping[type(config)]
    return known[0] if isinstance(known, tuple) else known


def context_length(config: Any) -> int:
    """Return the number of positions that a model computes correctly.

    LongRoPE changes all frequencies once a sequence is longer than the original context: also those of keys
    that are cached already, and of the batch's other requests. Such a model ends at its original context.
    """
    limits = [getattr(config, "max_position_embeddings", None) or _DEFAULT_CONTEXT]
    ropes = getattr(config, "rope_parameters", None) or {}
    for rope in (ropes, *(value for value in ropes.values() if isinstance(value, dict))):
        if rope.get("rope_type") == "longrope":
            original = getattr(config, "original_max_position_embeddings", None)
            limits.append(rope.get("original_max_position_embeddings") or original or limits[0])
    return min(limits)
