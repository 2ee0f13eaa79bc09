"""The table of families: what GGUF calls an architecture, and what transformers knows it as.

A row gives the modules that a layer's tensors belong to, how what conversion has changed is undone, and what
the configuration says besides what all say. To add a family is to add a row, and a model of it to
tests/models/gguf_models.py, whose logits are compared with transformers'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from neuron.models.gguf import config
from neuron.models.gguf.config import OwnKeys


@dataclass(frozen=True, slots=True)
class Family:
    """A row. Modules are named from the layer on."""

    model_type: str
    keys: OwnKeys
    modules: Mapping[str, str]
    last_norm: str = "norm"
    is_permuted: bool = False  # queries' and keys' rows stand as neighbours that are rotated together
    adds_one: bool = False  # to the weights of its norms
    experts: str = "mlp.experts"
    interleaves_experts: bool = False  # gates with what they gate; and has its experts' matrices transposed
    same_heads: bool = True  # in all layers
    flattened: frozenset[str] = field(
        default_factory=frozenset
    )  # stems of weights that have lost a dimension


_ATTENTION = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}
_QK_NORM = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_MLP = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_ROUTER = {"ffn_gate_inp": "mlp.gate"}
_SHARED_EXPERT = {
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}
_DECODER = {**_ATTENTION, **_MLP, "ffn_norm": "post_attention_layernorm"}
_FOUR_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}

_LLAMA = Family("llama", config.llama, _DECODER, is_permuted=True)
_GEMMA2 = Family("gemma2", config.gemma2, {**_ATTENTION, **_MLP, **_FOUR_NORMS}, adds_one=True)
_QWEN2 = Family("qwen2", config.qwen2, _DECODER)
_QWEN3 = Family("qwen3", config.qwen3, {**_DECODER, **_QK_NORM})

FAMILIES: dict[str, Family] = {
    "gemma": Family("gemma", config.gemma, _DECODER, adds_one=True),
    "gemma2": _GEMMA2,
    "gemma3": replace(
        _GEMMA2, model_type="gemma3_text", keys=config.gemma3, modules={**_GEMMA2.modules, **_QK_NORM}
    ),
    "glm4": Family(
        "glm4",
        config.glm4,
        {
            **_DECODER,
            "ffn_up": "mlp.gate_up_proj",
            "post_attention_norm": "post_self_attn_layernorm",
            "post_ffw_norm": "post_mlp_layernorm",
        },
    ),
    "gpt-oss": Family(
        "gpt_oss",
        config.gpt_oss,
        {
            **_ATTENTION,
            "attn_sinks": "self_attn.sinks",
            "post_attention_norm": "post_attention_layernorm",
            "ffn_gate_inp": "mlp.router",
        },
        interleaves_experts=True,
    ),
    "granite": replace(_LLAMA, model_type="granite", keys=config.granite),
    "lfm2": Family(
        "lfm2",
        config.lfm2,
        {
            **_ATTENTION,
            "attn_norm": "operator_norm",
            "attn_output": "self_attn.out_proj",
            "attn_q_norm": "self_attn.q_layernorm",
            "attn_k_norm": "self_attn.k_layernorm",
            "ffn_norm": "ffn_norm",
            "ffn_gate": "feed_forward.w1",
            "ffn_up": "feed_forward.w3",
            "ffn_down": "feed_forward.w2",
            "shortconv.conv": "conv.conv",
            "shortconv.in_proj": "conv.in_proj",
            "shortconv.out_proj": "conv.out_proj",
        },
        last_norm="embedding_norm",
        same_heads=False,
        flattened=frozenset({"shortconv.conv"}),
    ),
    "llama": _LLAMA,
    "olmo2": Family(
        "olmo2",
        config.nothing,
        {
            **_ATTENTION,
            **_MLP,
            **_QK_NORM,
            "post_attention_norm": "post_attention_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        },
    ),
    "olmoe": Family("olmoe", config.olmoe, {**_DECODER, **_QK_NORM, **_ROUTER}),
    "phi3": Family(
        "phi3",
        config.phi3,
        {**_DECODER, "attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"},
    ),
    "qwen2": _QWEN2,
    "qwen2moe": replace(
        _QWEN2,
        model_type="qwen2_moe",
        keys=config.qwen2_moe,
        modules={**_DECODER, **_ROUTER, **_SHARED_EXPERT},
        flattened=frozenset({"ffn_gate_inp_shexp"}),
    ),
    "qwen3": _QWEN3,
    "qwen3moe": replace(
        _QWEN3, model_type="qwen3_moe", keys=config.qwen3_moe, modules={**_QWEN3.modules, **_ROUTER}
    ),
    "seed_oss": Family(
        "seed_oss",
        config.seed_oss,
        {**_ATTENTION, **_MLP, "post_attention_norm": "post_attention_layernorm"},
    ),
    "smollm3": replace(_LLAMA, model_type="smollm3", keys=config.smollm3),
}

# A llama with experts, which has the same name in files.
MIXTRAL = replace(
    _LLAMA,
    model_type="mixtral",
    keys=config.mixtral,
    modules={**_DECODER, **_ROUTER},
)
