"""The table of families: of which kinds the layers of a model type consist.

A row names the parts of transformers' layer in the order in which they run, and how each is built. A layer
that lacks a part does without, so that layers of one model may differ. To add a family is to add a row, and
one to the families of tests/device/zoo.py, which compares its texts with transformers' own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from neuron.models.fused.attention import attention, gated_attention
from neuron.models.fused.delta_rule import delta_rule, grouped_delta_rule
from neuron.models.fused.experts import mlp
from neuron.models.fused.latent_attention import interleaved_latent_attention, latent_attention
from neuron.models.fused.layer_kind import Builder
from neuron.models.fused.mamba2 import mamba2
from neuron.models.fused.norm import NormBuilder, rms_norm, rms_norm_plus_one
from neuron.models.fused.rotation import has_static_rope
from neuron.models.fused.short_convolution import short_convolution


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
    rotary: str = "rotary_emb"  # the decoder's, if it has one
    fits: Callable[[Any], bool] = has_static_rope  # of a text configuration that is computed as it says

    @property
    def has_plain_layers(self) -> bool:
        """Whether its layers are attentions to keys and values, and MLPs or mixtures of experts."""
        return all(part.build in (attention, mlp) for part in self.parts)


def _has_silu(config: Any) -> bool:
    """Return whether convolutions are followed by the one activation that ours are."""
    return has_static_rope(config) and config.hidden_act == "silu"


def _has_free_steps(config: Any) -> bool:
    """Return whether a state space's step sizes have no bounds, which transformers heeds in prompts alone."""
    return _has_silu(config) and tuple(config.time_step_limit) == (0.0, float("inf"))


def _clips_nothing(text_config: Any) -> bool:
    return has_static_rope(text_config) and text_config.clip_qkv is None


_ATTENTION = Part("self_attn", attention, before="input_layernorm")
_MLP = Part("mlp", mlp, before="post_attention_layernorm")
_LLAMA = Family((_ATTENTION, _MLP))
_LATENT_ATTENTION = Part("self_attn", latent_attention, before="input_layernorm")
_INTERLEAVED = Part("self_attn", interleaved_latent_attention, before="input_layernorm")
_DEEPSEEK = Family((_LATENT_ATTENTION, _MLP))
# A short convolution in most layers, and an attention in the others.
_LFM2 = Family(
    (
        Part("conv", short_convolution, before="operator_norm"),
        Part("self_attn", attention, before="operator_norm"),
        Part("feed_forward", mlp, before="ffn_norm"),
    ),
    last_norm="embedding_norm",
)
_GATED_ATTENTION = Part("self_attn", gated_attention, before="input_layernorm")
# A state space in most layers, and an attention in the others.
_BAMBA = Family(
    (
        Part("mamba", mamba2, before="input_layernorm"),
        _ATTENTION,
        Part("feed_forward", mlp, before="pre_ff_layernorm"),
    ),
    last_norm="final_layernorm",
    fits=_has_free_steps,
)


def _qwen3_5(linear: Builder) -> Family:
    """Return a row: a gated delta rule in most layers, and a gated attention in the others."""
    parts = Part("linear_attn", linear, before="input_layernorm"), _GATED_ATTENTION, _MLP
    return Family(parts, norm=rms_norm_plus_one, fits=_has_silu)


FAMILIES: dict[str, Family] = {
    "bamba": _BAMBA,
    "cwm": _LLAMA,
    "deepseek_v2": Family((_INTERLEAVED, _MLP)),
    "deepseek_v3": _DEEPSEEK,
    "dots1": _LLAMA,
    "glm4_moe": _LLAMA,
    "glm4_moe_lite": _DEEPSEEK,
    "gpt_oss": _LLAMA,
    "hy_v3": _LLAMA,
    "lfm2": _LFM2,
    "lfm2_moe": replace(_LFM2, rotary="pos_emb"),
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
    "qwen3_5_moe_text": _qwen3_5(delta_rule),
    "qwen3_5_text": _qwen3_5(delta_rule),
    "qwen3_moe": _LLAMA,
    "qwen3_next": _qwen3_5(grouped_delta_rule),
    "seed_oss": _LLAMA,
    "solar_open": _LLAMA,
    "youtu": _DEEPSEEK,
}
