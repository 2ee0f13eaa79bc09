"""Any architecture of transformers as a tiny random model of the same kind.

A default configuration is rewritten by the names of its keys: sizes become small and stay in the proportions
that layers need, every kind of layer stays, tokens that mean something move to the vocabulary's end. Weights
are drawn so that greedy texts don't repeat one token, and so that each norm and bias changes something.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

import torch
from torch import nn

from neuron.models import private

VOCAB = 128
SPECIAL = 100  # tokens from here on may stand for images and the like; prompts have none
HIDDEN, HEADS, KV_HEADS, HEAD_DIM = 64, 4, 2, 16
WINDOW, CHUNK = 8, 16  # shorter than prompts
LAYERS = 4

# By key: the first pattern that matches all of it decides.
_SIZES: tuple[tuple[str, int], ...] = (
    (r"vocab_size(_per_layer_input)?|encoder_vocab_size|padded_vocab_size", VOCAB),
    (r"encoder_hash_byte_group_vocab", VOCAB),
    (r"max_position_embeddings|n_positions|n_ctx|max_seq_len(gth)?|max_sequence_length|seq_length", 512),
    (r"sliding_window(_size)?|local_attention|window_size", WINDOW),
    (r"attention_chunk_size", CHUNK),
    (r"index_n_heads|indexer_n_heads", 16),  # with few, scores are often 0, and chosen among by chance
    (r"index_topk|indexer_budget", WINDOW),
    (r"index_kpool|indexer_compress_ratio|index_block_size", 4),
    (r"index_topk_blocks", 2),
    (r"(num_|n_)?(local_|routed_)?experts|moe_num_experts|num_local_experts|n_routed_experts", 8),
    (r"num_experts_per_tok|moe_topk|moe_top_?k|top_k_experts|num_selected_experts|moe_k", 2),
    (r"n_group|topk_group|num_expert_groups?|n_shared_experts|num_shared_experts|moe_num_shared_experts", 1),
    (r"first_k_dense_replace|num_dense_layers|moe_layer_start_index", 1),
    (r"num_kv_shared_layers", LAYERS // 2),
    (r"moe_.*intermediate_size|.*expert.*intermediate_size|expert_ffn_hidden_size|moe_ffn.*", 32),
    (r"(.*_)?intermediate_size|(.*_)?ffn_dim|n_inner|d_ff|ffn_hidden_size|mlp_hidden_.*", 96),
    (r"q_lora_rank", 24),
    (r"kv_lora_rank", 2 * HEAD_DIM),
    (r"lora_rank", HEAD_DIM),
    (r"qk_head_dim|mamba_d_head|mamba_head_dim", 2 * HEAD_DIM),
    (r"mamba_d_ssm", 2 * HIDDEN),
    (r"d_head", HEAD_DIM),
    (r"(.*_)?head_dim|kv_channels|rotary_dim", HEAD_DIM),
    (r"hidden_size_per_layer_input", HEAD_DIM),
    (r"(.*_)?(num|n)_?(key_value_heads|kv_heads|head_kv)|num_key_value_heads.*|num_kv_heads", KV_HEADS),
    (r"(.*_)?(num_attention_heads|num_heads|n_heads?|attention_heads)", HEADS),
    (r"(.*_)?hidden_size(_global)?|hidden_dim|d_model|n_embd|(word_|token_)?embed_dim", HIDDEN),
    (r"adapter_(in_dim|out_dim|input_size)|embedding_(size|dim)|emb_dim|dim|projection_dim|width", HIDDEN),
    (r"image_size|max_image_size|input_size", 28),
    (r"patch_size", 14),
    (r"depth|num_blocks|encoder_layers|decoder_layers", 2),
    (r"query_pre_attn_scalar", HEAD_DIM),
    (r"d_state|state_size|ssm_state_size|mamba_d_state", 8),
)  # fmt: skip
# Sizes that default to None and are needed.
_NEEDED = {"head_dim", "num_key_value_heads", "num_experts_per_tok"} | {
    "n_routed_experts",
    "n_shared_experts",
}
_LEFT_OUT = {"transformers_version", "architectures", "dtype", "torch_dtype", "id2label", "label2id"}
_LAYER_COUNT = re.compile(r"num_hidden_layers|n_layers?|num_layers")
_TOKEN = re.compile(r".*(token|tokens)_(id|index)|(pad|bos|eos|sep|cls|mask|unk|decoder_start)_token_id")
_ORDINARY = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}

_SCALE = re.compile(r"(norm|ln)\w*\.weight$")
_SEES = re.compile(r"vision|image|audio")
_ROTATES_WHOLE_HEADS = (
    "glm46v",
    "glm4v",
    "glm_ocr",
    "glmga",
    "hunyuan_vl",
    "paddleocr_vl",
    "qwen2_5_vl",
    "qwen2_vl",
)
_ROTATES_HALF_HEADS = ("glm4v_moe",)


_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}


def _rotation(*sections: int) -> dict[str, Any]:
    return _ROPE | {"mrope_section": list(sections)}


_LATENT_HEADS = {
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "q_lora_rank": 24,
    "kv_lora_rank": HEAD_DIM,
    "head_dim": 2 * HEAD_DIM,
    "qk_nope_head_dim": HEAD_DIM,
    "qk_rope_head_dim": HEAD_DIM,
    "v_head_dim": HEAD_DIM,
}
_QWEN4_EXP = {
    "indexer_n_heads": 16,
    "indexer_kv_heads": 1,
    "indexer_head_dim": HEAD_DIM,
    "indexer_budget": WINDOW,
    "indexer_compress_ratio": 4,
}
_DOTS3_NOTE: dict[str, Any] = {
    "layer_types": ["indexed_attention", "sliding_attention"] * 2,
    "per_layer_config": {1: _LATENT_HEADS, 3: _LATENT_HEADS},
}

_TILES = [[28, 56], [56, 28], [56, 56]]  # sizes in pixels that images are cut into
_WINDOWED = {"window_size": 56, "fullatt_block_indexes": [1]}

# What no key says: by model type, changes to the tiny configuration (of its text, where that is a part).
EXCEPTIONS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "aria": {"projector_patch_to_query_dict": {4: 2}},
    "chameleon": {"vocabulary_map": {"<image>": SPECIAL}},
    "deepseek_ocr2": {"mlp_layer_types": ["dense", "sparse"] * 2},
    "deepseek_v4": {
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": CHUNK}
    },
    "diffusion_gemma": {"num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 32},
    "dots3_note": _DOTS3_NOTE,
    "dots3_note_text": _DOTS3_NOTE,
    "emu3": {"vocabulary_map": {"<image>": SPECIAL}},
    "exaone4_5": {"vision_config": _WINDOWED},
    "gemma3": {"mm_tokens_per_image": 4},
    "gemma4": {"vision_config": {"pooling_kernel_size": 2}},
    "gemma4_unified": {"vision_config": {}},
    "hyperclovax_vision_v2": {"vision_config": _WINDOWED},
    "llama4": {
        "vision_config": {"intermediate_size": 4 * HIDDEN, "projector_input_dim": HIDDEN}
        | {"projector_output_dim": HIDDEN, "vision_output_dim": HIDDEN}
    },
    "llava_next": {"image_grid_pinpoints": _TILES},
    "llava_next_video": {"image_grid_pinpoints": _TILES},
    "llava_onevision": {"image_grid_pinpoints": _TILES},
    "minicpm_ocr": {"image_token_id": SPECIAL},
    "minicpmv4_6": {"image_token_id": SPECIAL},
    "minicpmv4_7": {"image_token_id": SPECIAL},
    "vipllava": {"vision_feature_layer": [-1, -2]},
    "ernie4_5_vl_moe": {"rope_parameters": _rotation(3, 3, 2)},
    "glm4v_moe": {"rope_parameters": _rotation(1, 1, 2)},
    "granite4_vision": {
        "deepstack_layer_map": [],
        "downsample_rate": "1/2",
        "image_grid_pinpoints": _TILES,
    },
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "hrm_text": {"num_hidden_layers": 16, "num_layers_per_stack": 2},
    "kosmos-2.5": {"pad_token_id": VOCAB - 1},  # `generate` counts no position for one that it writes itself
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"head_dim": 2 * HEAD_DIM, "n_groups": 2},
    "minimax_m3_vl": {"index_n_heads": KV_HEADS},
    "minimax_m3_vl_text": {"index_n_heads": KV_HEADS},
    "mistral4": {"head_dim": 2 * HEAD_DIM},
    "nemotron_h": {"n_groups": 2},
    "nemotron_h_omni": {"n_groups": 2, "image_token_id": SPECIAL},
    "xlstm": {"hidden_size": 2 * HIDDEN, "embedding_dim": 2 * HIDDEN},  # sizes are rounded up to 64
    "cohere_compass": {"rope_parameters": {"full_attention": _ROPE}},
    "cohere_compass_text": {"rope_parameters": {"full_attention": _ROPE}},
    "molmo2": {"adapter_config": {"vision_feature_layer": [-1, -2]}, "image_token_id": SPECIAL},
    "qwen2_5_omni_thinker": {
        "vision_start_token_id": SPECIAL,
        "rope_parameters": _rotation(2, 3, 3),
        "vision_config": _WINDOWED,
    },
    "qwen3_omni_moe_thinker": {"vision_start_token_id": SPECIAL},
    "step3p7": {"sliding_window": WINDOW},
    "youtu": {"pad_token_id": None},  # whose row becomes zeros when the model is loaded
    "xmod": {"default_language": "en_XX"},
    "dbrx": {"attn_config": {"kv_n_heads": KV_HEADS, "clip_qkv": 8.0, "rope_theta": 10_000.0}},
    "reformer": {"axial_pos_embds_dim": [HIDDEN // 2] * 2, "axial_pos_shape": [16, 32]},
    "qwen4_exp": _QWEN4_EXP,
    "qwen4_exp_text": _QWEN4_EXP,
    "zamba": {
        "attention_hidden_size": 2 * HIDDEN,
        "attention_head_dim": 2 * HEAD_DIM,
        "layer_types": ["linear_attention", "hybrid"] * 2,
    },
    "zamba2": {
        "attention_hidden_size": 2 * HIDDEN,
        "attention_head_dim": 2 * HEAD_DIM,
        "hybrid_layer_ids": [1, 3],
        "mamba_headdim": HEAD_DIM,
        "n_mamba_heads": 2 * HIDDEN // HEAD_DIM,
    },
    **{name: {"rope_parameters": _rotation(2, 3, 3)} for name in _ROTATES_WHOLE_HEADS},
}
EXCEPTIONS["qwen2_5_vl"] |= {"vision_config": _WINDOWED}


def tiny_config(config_class: Any, **changes: Any) -> Any:
    """The configuration of `config_class` made tiny; `changes` are made to its text part."""
    plain = config_class().to_dict()
    shrunk = _shrunk(plain)
    text = next((shrunk[key] for key in ("text_config", "language_config") if shrunk.get(key)), shrunk)
    for key, value in (EXCEPTIONS.get(plain["model_type"], {}) | changes).items():
        is_of_whole = key in shrunk or key.endswith("_token_id")
        place = shrunk if is_of_whole and key not in text else text
        if key.endswith("_config"):
            part = place[key] or _shrunk(config_class.sub_configs[key]().to_dict())
            place[key] = part | value
        else:
            place[key] = value
    return config_class.from_dict(shrunk)


def tiny_model(model_class: Any, config: Any, seed: int = 7) -> Any:
    """The model itself in float32, the same for the same arguments."""
    torch.manual_seed(seed)
    # Unless it is eager, some that know the interface drop soft caps and sinks. Falcon, which does not, adds
    # its ALiBi biases twice when it is eager.
    attention = "eager" if private.supports_attention_interface(model_class) else None
    model = model_class._from_config(config, dtype=torch.float32, attn_implementation=attention)  # noqa: SLF001
    _draw(model)
    return model.eval()


def _shrunk(plain: Mapping[str, Any]) -> dict[str, Any]:
    """One level of a configuration, and those in it."""
    if not all(isinstance(key, str) for key in plain):
        return dict(plain)
    plain = {key: value for key, value in plain.items() if key not in _LEFT_OUT}
    counts = [key for key in plain if _LAYER_COUNT.fullmatch(key) and isinstance(plain[key], int)]
    count_key = counts[0] if counts else ""
    kept = _kept_layers(plain, plain.get(count_key) or 0)
    shrunk: dict[str, Any] = {}
    for key, value in plain.items():
        if key == count_key:
            shrunk[key] = len(kept)
        elif key == "per_layer_config" and value:
            layers = {int(index): changes for index, changes in value.items()}
            shrunk[key] = {at: _shrunk(layers[index]) for at, index in enumerate(kept) if index in layers}
        elif isinstance(value, list) and kept and len(value) == plain[count_key]:
            shrunk[key] = [_value(key, value[index], plain) for index in kept]
        else:
            shrunk[key] = _value(key, value, plain)
    return shrunk


def _kept_layers(plain: Mapping[str, Any], count: int) -> list[int]:
    """The indices of the layers that stay: one of each kind, and some more."""
    kinds = plain.get("layer_types") or plain.get("layers_block_type") or []
    if len(kinds) != count:
        return list(range(min(count, LAYERS)))
    by_kind = [[at for at, other in enumerate(kinds) if other == kind] for kind in dict.fromkeys(kinds)]
    firsts = [indices[0] for indices in by_kind]
    later = ([at for at in indices if at > max(firsts)] for indices in by_kind)
    others = [at for rank in zip_longest(*later) for at in rank if at is not None]
    return sorted(firsts + others[: max(0, LAYERS - len(firsts))])


def _value(key: str, value: Any, plain: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return _rope(value, plain) if key.startswith("rope") else _shrunk(value)
    if key in _ORDINARY:
        return _ORDINARY[key]
    if _TOKEN.fullmatch(key) and isinstance(value, int):
        return SPECIAL + sum(map(ord, key)) % (VOCAB - SPECIAL)
    if isinstance(value, bool) or (not isinstance(value, int) and not (value is None and key in _NEEDED)):
        return value
    size = next((size for pattern, size in _SIZES if re.fullmatch(pattern, key)), None)
    if size is None or value == 0:
        return value
    if size == KV_HEADS and value == plain.get("num_attention_heads"):
        return HEADS
    return min(size, value or size) if size < HEADS else size


def _rope(rope: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of rotations; where layers of different kinds have their own, of each."""
    made = {key: _rope(value, plain) if isinstance(value, dict) else value for key, value in rope.items()}
    if "mrope_section" in made:
        made["mrope_section"] = [2, 3, 3]
    if "original_max_position_embeddings" in made:
        made["original_max_position_embeddings"] = 128
    for key in ("short_factor", "long_factor"):
        if isinstance(made.get(key), list):
            made[key] = made[key][: HEAD_DIM // 2]
    return made


@torch.no_grad()
def _draw(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=1.5 / math.sqrt(parameter.shape[-1]))
            if "embed" in name or "wte" in name:
                parameter.normal_(std=0.2)
        elif "norm" in name or "ln" in name:
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
        else:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    _part_head_from_embedding(model)


def _part_head_from_embedding(model: Any) -> None:
    """Let a head that is the embedding, too, answer with other tokens than the last: by its norm's signs."""
    head = model.get_output_embeddings()
    if head is None or head.weight is not model.get_input_embeddings().weight:
        return
    scales = [
        parameter
        for name, parameter in model.named_parameters()
        if _SCALE.search(name) and not _SEES.search(name) and parameter.shape == head.weight.shape[1:]
    ]
    for scale in scales[-1:]:
        scale.sub_(2.0)
