"""Which architectures run here, and what transformers knows of a checkpoint's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
)

from neuron.models import private
from neuron.models.checkpoint import Checkpoint, ModelLoadError, model_broken
from neuron.models.config_sizes import INDEXED_LAYERS, SILENT_LAYERS
from neuron.models.state_interface import STATE_LAYERS, keeps_states, layer_types

# Equal to transformers' `generate`, token for token, in tests/device/test_parity.py.
TESTED_FAMILIES = (
    "axk2",
    "bamba",
    "bart",
    "bloom",
    "cwm",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "deepseek_v4",
    "dots3_note_text",
    "diffllama",
    "doge",
    "dots1",
    "falcon",
    "falcon_h1",
    "gemma2",
    "gemma3_text",
    "glm4_moe",
    "glm4_moe_lite",
    "glm_moe_dsa",
    "gpt_oss",
    "gptj",
    "granitemoehybrid",
    "hrm_text",
    "hy_v3",
    "hy_v4",
    "jamba",
    "kimi_linear",
    "lfm2",
    "lfm2_moe",
    "llama",
    "llama4_text",
    "longcat_flash",
    "mamba",
    "mamba2",
    "minicpm3",
    "minimax",
    "minimax_m2",
    "minimax_m3_vl_text",
    "ministral",
    "mistral",
    "mixtral",
    "mpt",
    "nemotron_h",
    "olmo",
    "olmo2",
    "olmo3",
    "olmoe",
    "openai-gpt",
    "phi3",
    "phimoe",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_5_moe_text",
    "qwen3_5_text",
    "qwen3_moe",
    "qwen3_next",
    "qwen4_exp_text",
    "recurrent_gemma",
    "rwkv",
    "seed_oss",
    "solar_open",
    "xlstm",
    "youtu",
    "zamba",
    "zamba2",
)

# The same with images, in tests/device/test_vision.py. Others see if they prove it when they are loaded.
TESTED_VISION_FAMILIES = ("gemma3", "idefics3", "llava", "qwen3_vl")

_LOCAL_LAYERS = {"sliding_attention", "chunked_attention", "reference_sliding_attention"}
_RUNNABLE_LAYERS = {"full_attention"} | _LOCAL_LAYERS | STATE_LAYERS | SILENT_LAYERS | INDEXED_LAYERS
_OTHER_HEADS = re.compile(r"For(Sequence|Token)Classification$|ForQuestionAnswering$")
_DEFAULT_CONTEXT = 4096  # tokens, for a model that names no limit


def model_unsupported(path: Path, cause: str) -> ModelLoadError:
    """Return the error for a model that is not run, with the families that are known to run."""
    families, with_images = ", ".join(TESTED_FAMILIES), ", ".join(TESTED_VISION_FAMILIES)
    known = f"transformers' decoders run, tested are {families}; "
    return ModelLoadError("model_unsupported", f"{path}: {cause}; {known}with images {with_images}")


def read_config(checkpoint: Checkpoint) -> Any:
    """Return transformers' configuration object. Raises ModelLoadError when it knows none of this type."""
    file = checkpoint.config_file
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


def decoder_class(checkpoint: Checkpoint, config: Any, *, images: bool = False) -> Any:
    """Return transformers' class of a decoder that looks as if it runs, rather one that takes `images` if so.

    Raises ModelLoadError.
    """
    file, name = checkpoint.config_file, config.model_type
    if config.is_encoder_decoder:
        raise model_unsupported(file, f"{name} is not a decoder, it has an encoder before it")
    if others := [cls for cls in _architectures(checkpoint) if _OTHER_HEADS.search(cls)]:
        raise model_unsupported(file, f"{others[0]} labels texts and writes none")
    if type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise model_unsupported(file, f"{name} labels images and writes no text")
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False):
        raise model_unsupported(file, f"{name} reads in both directions: it fills in masked tokens")
    found = _text_class(checkpoint, config, images=images)
    if found is None:
        raise model_unsupported(file, f"transformers has no class of {name} that writes text")
    if found.__name__.endswith("ForBlockDiffusion"):
        raise model_unsupported(file, f"{name} writes by diffusion: a block of tokens at once")
    text_config = config.get_text_config(decoder=True)
    if others := sorted(set(layer_types(text_config)) - _RUNNABLE_LAYERS):
        raise model_unsupported(file, f"{name} has layers of type {', '.join(others)}")
    return found


def uses_attention_interface(model_class: Any, text_config: Any) -> bool:
    """Return whether a class leaves its attention to transformers' interface, as far as it says."""
    # Models that keep states do not say so; which of their layers attend by it is seen when they are probed.
    return keeps_states(text_config) or private.supports_attention_interface(model_class)


def _text_class(checkpoint: Checkpoint, config: Any, *, images: bool) -> Any | None:
    """Return the class that a checkpoint was saved from if it writes text, else the first that does."""
    mappings = MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    if images:
        mappings = mappings[::-1]
    found = [cls for mapping in mappings if (cls := model_class(mapping, config))]
    part = config.sub_configs.get("text_config")
    found = [cls for cls in found if part is None or cls.config_class is not part]  # of the whole model
    named = [cls for cls in found if cls.__name__ in _architectures(checkpoint)]
    return next(iter(named or found), None)


def _architectures(checkpoint: Checkpoint) -> list[str]:
    names = checkpoint.config.get("architectures")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def check_context(file: Path, text_config: Any) -> None:
    """Raise ModelLoadError, which names file and key, if a configuration leaves no room for a token."""
    most = vars(text_config).get("max_position_embeddings")  # what it says; a class without limits says -1
    if isinstance(most, int) and most < 0:
        raise model_broken(file, f"max_position_embeddings is {most}, but must be positive; correct it")


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
