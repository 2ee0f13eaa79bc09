"""Hugging Face's configuration of a model, made of a GGUF file's keys and the shapes of its tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from neuron.models.checkpoint import model_broken
from neuron.models.gguf.metadata import GgufKeys
from neuron.models.gguf.rotation import Tensors, local_rope_parameters, original_context, rope_parameters

Config = dict[str, Any]
OwnKeys = Callable[[GgufKeys, Tensors, Config], Config]  # what a family adds to what all have

EMBEDDING, HEAD = "token_embd.weight", "output.weight"
_HEADS, _KV_HEADS = ".attention.head_count", ".attention.head_count_kv"
_KEY_DIM, _VALUE_DIM = ".attention.key_length", ".attention.value_length"
_WINDOW = ".attention.sliding_window"
_EXPERT_SIZE = ".expert_feed_forward_length"


def common_config(metadata: GgufKeys, tensors: Tensors) -> Config:
    """Return what the configurations of all decoders say. Raises ModelLoadError naming file and key."""
    embedding = tensors.get(EMBEDDING)
    if embedding is None or len(embedding.shape) != 2:
        raise model_broken(metadata.path, f"lacks the table {EMBEDDING}")
    hidden, layers = metadata.whole(".embedding_length"), _num_layers(metadata, tensors)
    if embedding.shape[1] != hidden:
        raise metadata.broken(".embedding_length", f"is {hidden}, but {EMBEDDING} has {embedding.shape[1]}")
    heads = max(metadata.wholes(_HEADS, layers))
    kv_heads = max(metadata.wholes(_KV_HEADS, layers)) if metadata.has(_KV_HEADS) else heads
    if not heads or not kv_heads or heads % kv_heads:
        raise metadata.broken(
            _HEADS, f"is {heads}, which is no multiple of {kv_heads}, {metadata.key(_KV_HEADS)}"
        )
    head_dim = metadata.whole(_KEY_DIM, hidden // heads)
    return {
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "intermediate_size": _feed_forward(metadata, layers),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": metadata.whole(".context_length"),
        "rms_norm_eps": metadata.number(".attention.layer_norm_rms_epsilon"),
        "rope_parameters": rope_parameters(metadata, tensors, head_dim),
        "tie_word_embeddings": HEAD not in tensors,
        "bos_token_id": metadata.token_id("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.token_id("tokenizer.ggml.eos_token_id"),
        "pad_token_id": None,
    }


def _num_layers(metadata: GgufKeys, tensors: Tensors) -> int:
    layers = metadata.whole(".block_count")
    if layers > len(tensors):
        raise metadata.broken(
            ".block_count", f"is {layers}, but the weights are {len(tensors)} tensors in all"
        )
    return layers


def _feed_forward(metadata: GgufKeys, layers: int) -> int:
    """Return the width of the layers' MLPs; that of the experts where all layers have some."""
    key = ".feed_forward_length" if metadata.has(".feed_forward_length") else _EXPERT_SIZE
    sizes = {size for size in metadata.wholes(key, layers) if size}
    if len(sizes) != 1:
        raise metadata.differing(key)
    return sizes.pop()


def require_same_heads(metadata: GgufKeys, layers: int) -> None:
    """Refuse layers that differ in their number of heads."""
    for key in (_HEADS, _KV_HEADS):
        if metadata.has(key) and len(set(metadata.wholes(key, layers))) != 1:
            raise metadata.differing(key)


# --- what families add ------------------------------------------------------------------------------------


def llama(_: GgufKeys, tensors: Tensors, __: Config) -> Config:
    return {
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in tensors,
    }


def nothing(_: GgufKeys, __: Tensors, ___: Config) -> Config:
    return {}


def mixtral(metadata: GgufKeys, _: Tensors, __: Config) -> Config:
    return {
        "num_local_experts": metadata.whole(".expert_count"),
        "num_experts_per_tok": metadata.whole(".expert_used_count"),
        "sliding_window": None,
    }


def qwen2(_: GgufKeys, __: Tensors, ___: Config) -> Config:
    return {"use_sliding_window": False}


def qwen2_moe(metadata: GgufKeys, _: Tensors, __: Config) -> Config:
    return {
        **_experts(metadata),
        "shared_expert_intermediate_size": metadata.whole(".expert_shared_feed_forward_length"),
        "norm_topk_prob": False,
        "use_sliding_window": False,
    }


def qwen3(_: GgufKeys, tensors: Tensors, __: Config) -> Config:
    return {"attention_bias": "blk.0.attn_q.bias" in tensors, "use_sliding_window": False}


def qwen3_moe(metadata: GgufKeys, tensors: Tensors, config: Config) -> Config:
    return {**_experts(metadata), **qwen3(metadata, tensors, config), "norm_topk_prob": True}


def _experts(metadata: GgufKeys) -> Config:
    return {
        "num_experts": metadata.whole(".expert_count"),
        "num_experts_per_tok": metadata.whole(".expert_used_count"),
        "moe_intermediate_size": metadata.whole(_EXPERT_SIZE),
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def gemma(_: GgufKeys, __: Tensors, ___: Config) -> Config:
    return {"hidden_activation": "gelu_pytorch_tanh"}


def gemma2(metadata: GgufKeys, _: Tensors, config: Config) -> Config:
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": _query_scale(config, largest=46),
        "attn_logit_softcapping": metadata.number(".attn_logit_softcapping", 50.0),
        "final_logit_softcapping": metadata.number(".final_logit_softcapping", 30.0),
        "sliding_window": metadata.whole(_WINDOW, 4096),
        "layer_types": _layer_types(metadata, config, full_every=2),
    }


def gemma3(metadata: GgufKeys, _: Tensors, config: Config) -> Config:
    window = metadata.whole(_WINDOW, 0, least=0)
    softcap = metadata.number(".final_logit_softcapping", 0.0)
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": _query_scale(config, largest=62),
        "attn_logit_softcapping": None,
        "final_logit_softcapping": softcap or None,
        "sliding_window": window or config["max_position_embeddings"],
        "layer_types": _layer_types(metadata, config, full_every=6 if window else 1),
        "rope_parameters": {
            "full_attention": config["rope_parameters"],
            "sliding_attention": local_rope_parameters(metadata),
        },
    }


def _query_scale(config: Config, *, largest: int) -> int:
    """Return what Gemma's queries are scaled by: the heads' width, but in the `largest` model, by layers."""
    if config["num_hidden_layers"] == largest:
        return int(config["hidden_size"] // config["num_attention_heads"])
    return int(config["head_dim"])


def _layer_types(metadata: GgufKeys, config: Config, *, full_every: int) -> list[str]:
    """Return the kinds of attention: windows, and after some of them a full one."""
    key = ".attention.sliding_window_pattern"
    layers = config["num_hidden_layers"]
    values = metadata.pattern(key) if metadata.has(key) else full_every
    if isinstance(values, int):
        full_every = values or layers + 1
        values = [(layer + 1) % full_every != 0 for layer in range(layers)]
    if len(values) != layers:
        raise metadata.broken(key, f"has {len(values)} entries for {layers} layers")
    return ["sliding_attention" if has_window else "full_attention" for has_window in values]


def phi3(metadata: GgufKeys, _: Tensors, config: Config) -> Config:
    original = original_context(metadata) or config["max_position_embeddings"]
    return {
        "sliding_window": metadata.whole(_WINDOW, 0, least=0) or None,
        "original_max_position_embeddings": original,
    }


def gpt_oss(metadata: GgufKeys, _: Tensors, config: Config) -> Config:
    rope = config["rope_parameters"]
    return {
        "intermediate_size": metadata.whole(_EXPERT_SIZE, config["intermediate_size"]),
        "num_local_experts": metadata.whole(".expert_count"),
        "num_experts_per_tok": metadata.whole(".expert_used_count"),
        "sliding_window": metadata.whole(_WINDOW),
        "layer_types": _layer_types(metadata, config, full_every=2),
        "attention_bias": True,
        "rope_parameters": rope | {"truncate": False} if rope["rope_type"] == "yarn" else rope,
    }


def olmoe(metadata: GgufKeys, _: Tensors, __: Config) -> Config:
    return {
        "num_experts": metadata.whole(".expert_count"),
        "num_experts_per_tok": metadata.whole(".expert_used_count"),
        "norm_topk_prob": False,
    }


def seed_oss(_: GgufKeys, tensors: Tensors, __: Config) -> Config:
    return {
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "attention_out_bias": "blk.0.attn_output.bias" in tensors,
    }


def granite(metadata: GgufKeys, tensors: Tensors, config: Config) -> Config:
    return {
        **llama(metadata, tensors, config),
        "logits_scaling": metadata.number(".logit_scale"),
        "embedding_multiplier": metadata.number(".embedding_scale", 1.0),
        "residual_multiplier": metadata.number(".residual_scale", 1.0),
        "attention_multiplier": metadata.number(".attention.scale", config["head_dim"] ** -0.5),
    }


def glm4(_: GgufKeys, tensors: Tensors, __: Config) -> Config:
    return {"attention_bias": "blk.0.attn_q.bias" in tensors}


def smollm3(metadata: GgufKeys, tensors: Tensors, config: Config) -> Config:
    return {**llama(metadata, tensors, config), "no_rope_layer_interval": 4, "use_sliding_window": False}


def lfm2(metadata: GgufKeys, _: Tensors, config: Config) -> Config:
    kv_heads = metadata.wholes(_KV_HEADS, config["num_hidden_layers"])
    return {
        "norm_eps": config["rms_norm_eps"],
        "conv_L_cache": metadata.whole(".shortconv.l_cache"),
        "conv_bias": False,
        "block_auto_adjust_ff_dim": False,
        "layer_types": ["full_attention" if heads else "conv" for heads in kv_heads],
    }
