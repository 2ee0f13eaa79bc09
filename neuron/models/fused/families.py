"""The table of families: of which kinds the layers of a model type consist.

A row names the parts of transformers' layer in the order in which they run, and how each is built. A layer
that lacks a part does without, so that layers of one model may differ. To add a family is to add a row, and
one to the families of tests/device/zoo.py, which compares its texts with transformers' own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from neuron.models.fused.attention import attention
from neuron.models.fused.experts import mlp
from neuron.models.fused.latent_attention import interleaved_latent_attention, latent_attention
from neuron.models.fused.layer_kind import Builder
from neuron.models.fused.norm import NormBuilder, rms_norm
from neuron.models.fused.rotation import has_static_rope


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a layer: which of its modules, how it is built, and the norms before and after it."""

    module: str
    build: Builder
    before: str | None = None
    after: str | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """A row."""

    parts: tuple[Part, ...]
    norm: NormBuilder = rms_norm
    last_norm: str = "norm"  # the decoder's, before its head
    fits: Callable[[Any], bool] = has_static_rope  # of a text configuration that is computed as it says


def _clips_nothing(text_config: Any) -> bool:
    return has_static_rope(text_config) and text_config.clip_qkv is None


_ATTENTION = Part("self_attn", attention, before="input_layernorm")
_MLP = Part("mlp", mlp, before="post_attention_layernorm")
_LLAMA = Family((_ATTENTION, _MLP))
_LATENT_ATTENTION = Part("self_attn", latent_attention, before="input_layernorm")
_INTERLEAVED = Part("self_attn", interleaved_latent_attention, before="input_layernorm")
_DEEPSEEK = Family((_LATENT_ATTENTION, _MLP))

FAMILIES: dict[str, Family] = {
    "cwm": _LLAMA,
    "deepseek_v2": Family((_INTERLEAVED, _MLP)),
    "deepseek_v3": _DEEPSEEK,
    "dots1": _LLAMA,
    "glm4_moe": _LLAMA,
    "glm4_moe_lite": _DEEPSEEK,
    "gpt_oss": _LLAMA,
    "hy_v3": _LLAMA,
    "llama": _LLAMA,
    "minimax_m2": _LLAMA,
    "ministral": _LLAMA,
    "mistral": _LLAMA,
    "mistral4": _DEEPSEEK,
    "mixtral": _LLAMA,
    "olmoe": Family((_ATTENTION, _MLP), fits=_clips_nothing),
    "qwen2": _LLAMA,
    "qwen2_moe": _LLAMA,
    "qwen3": _LLAMA,
    "qwen3_moe": _LLAMA,
    "seed_oss": _LLAMA,
    "solar_open": _LLAMA,
    "youtu": _DEEPSEEK,
}
