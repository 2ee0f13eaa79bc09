"""Tiny random models of many families, built where they are needed and saved as Hugging Face directories."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

VOCAB = 128

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "initializer_range": 0.3,  # so that greedy texts do not repeat one token
}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_ALTERNATE = ["sliding_attention", "full_attention", "sliding_attention"]
_GROUPED = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 32,
    "routed_scaling_factor": 1.7,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}
_LATENT = {
    "head_dim": 8,
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "first_k_dense_replace": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 32,
    "mlp_layer_types": ["dense", "sparse", "sparse"],
}
_HYBRID = {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}
_SHARED = {"attention_hidden_size": 128, "attention_head_dim": 32, "num_key_value_heads": 4}
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 8}
_DELTA = _HYBRID | {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}

_LATENT_HEADS = {
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "head_dim": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}
# Among equal scores positions are chosen by chance: many are 0 with few heads, all are of a padding token.
_INDEX = {"index_topk": 8, "index_head_dim": 16, "index_n_heads": 16, "pad_token_id": None}
_SHARED_INDEX = _LATENT | _INDEX | {"indexer_types": ["full", "shared", "full"]}

_DECODER_HALF = {
    "is_decoder": True,
    "is_encoder_decoder": False,
    "forced_eos_token_id": None,
    "d_model": 64,
    "decoder_layers": 3,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 96,
    "init_std": 0.3,
}

# Windows are smaller than the prompts of the tests.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {}),
    "qwen3_moe": ("Qwen3MoeConfig", _MOE),
    "qwen2_moe": ("Qwen2MoeConfig", _MOE | {"shared_expert_intermediate_size": 32}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "glm4_moe": ("Glm4MoeConfig", _GROUPED | {"use_qk_norm": True, "attention_bias": True}),
    "dots1": ("Dots1Config", _GROUPED),
    "olmoe": ("OlmoeConfig", {"num_experts": 4, "num_experts_per_tok": 2}),
    "minimax_m2": (
        "MiniMaxM2Config",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        },
    ),
    "hy_v3": (
        "HYV3Config",
        _MOE | {"num_local_experts": 4, "num_shared_experts": 1, "first_k_dense_replace": 1},
    ),
    "solar_open": ("SolarOpenConfig", _GROUPED),
    "seed_oss": ("SeedOssConfig", {}),
    "ministral": ("MinistralConfig", {"sliding_window": 8, "layer_types": _ALTERNATE}),
    "cwm": ("CwmConfig", {"sliding_window": 8, "layer_types": _ALTERNATE}),
    "mistral": ("MistralConfig", {"sliding_window": 8}),
    "gemma2": ("Gemma2Config", {"sliding_window": 8, "query_pre_attn_scalar": 16}),
    "phi3": ("Phi3Config", {}),
    "gpt_oss": (
        "GptOssConfig",
        {"sliding_window": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "rope_parameters": _YARN},
    ),
    "olmo": ("OlmoConfig", {"clip_qkv": 2.0}),
    "olmo2": ("Olmo2Config", {}),
    "olmo3": ("Olmo3Config", {"sliding_window": 8}),
    "llama4_text": (
        "Llama4TextConfig",
        {
            "attention_chunk_size": 16,
            "intermediate_size_mlp": 96,
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "no_rope_layers": [1, 1, 0],
        },
    ),
    "phimoe": ("PhimoeConfig", {"sliding_window": 8, "num_local_experts": 4}),
    "gemma3_text": ("Gemma3TextConfig", {"sliding_window": 8, "query_pre_attn_scalar": 16}),
    # These cache latents.
    "deepseek_v2": ("DeepseekV2Config", _LATENT | {"q_lora_rank": None, "attention_bias": True}),
    "deepseek_v3": ("DeepseekV3Config", _LATENT | {"rope_parameters": _YARN | {"mscale_all_dim": 1.0}}),
    "glm4_moe_lite": ("Glm4MoeLiteConfig", _LATENT),
    "longcat_flash": (
        "LongcatFlashConfig",
        _LATENT
        | {
            "num_hidden_layers": 4,  # attentions; two in each layer
            "ffn_hidden_size": 96,
            "expert_ffn_hidden_size": 32,
            "zero_expert_num": 2,
            "moe_topk": 2,
        },
    ),
    "minicpm3": ("MiniCPM3Config", _LATENT),
    "youtu": ("YoutuConfig", _LATENT),
    "kimi_linear": (
        "KimiLinearConfig",
        _LATENT
        | {
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "linear_num_heads": 4,
            "linear_head_dim": 16,
        },
    ),
    # Queries of these attend to the positions that an indexer chooses, fewer than the prompts have.
    "deepseek_v32": ("DeepseekV32Config", _LATENT | _INDEX),
    "glm_moe_dsa": ("GlmMoeDsaConfig", _SHARED_INDEX),
    "axk2": ("AXK2Config", _LATENT | _INDEX | {"n_group": None, "topk_group": None}),
    "hy_v4": ("HYV4Config", _SHARED_INDEX),
    "minimax_m3_vl_text": (
        "MiniMaxM3VLTextConfig",
        {
            "layer_types": ["full_attention", "minimax_m3_sparse", "minimax_m3_sparse"],
            "index_n_heads": 2,
            "index_head_dim": 16,
            "index_block_size": 4,
            "index_topk_blocks": 3,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "rotary_dim": 8,
        },
    ),
    # Layers of these attend themselves: over positions, biases by distance, and one head of keys.
    "bloom": ("BloomConfig", {}),
    "falcon": ("FalconConfig", {"alibi": True}),
    "gptj": ("GPTJConfig", {"rotary_dim": 8}),
    "mpt": ("MptConfig", {}),
    "doge": ("DogeConfig", {"keep_window_size": 8}),
    "bart": ("BartConfig", _DECODER_HALF),
    # Whole states, and a text that is read anew for each token.
    "rwkv": ("RwkvConfig", {"attention_hidden_size": 64, "context_length": 512}),
    "xlstm": ("xLSTMConfig", {"hidden_size": 128, "embedding_dim": 128, "num_heads": 4}),
    "openai-gpt": ("OpenAIGPTConfig", {}),
    "dots3_note_text": (
        "Dots3NoteTextConfig",
        _LATENT
        | _INDEX
        | {
            "layer_types": ["indexed_attention", "sliding_attention", "indexed_attention"],
            "sliding_window": 8,
            "per_layer_config": {1: _LATENT_HEADS},
        },
    ),
    "deepseek_v4": (
        "DeepseekV4Config",
        _INDEX
        | {
            "layer_types": [
                "heavily_compressed_attention",
                "compressed_sparse_attention",
                "sliding_attention",
            ],
            "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 16},
            "sliding_window": 8,
            "num_key_value_heads": 1,
            "q_lora_rank": 24,
            "o_lora_rank": 16,
            "o_groups": 2,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "mlp_layer_types": ["moe"] * 3,
        },
    ),
    # Layers of these keep states.
    "lfm2": ("Lfm2Config", {"layer_types": ["conv", "full_attention", "conv"]}),
    "lfm2_moe": (
        "Lfm2MoeConfig",
        _MOE | {"layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1},
    ),
    "mamba": ("MambaConfig", {"state_size": 8}),
    "mamba2": ("Mamba2Config", {"state_size": 8, "num_heads": 4, "head_dim": 32, "n_groups": 2}),
    "jamba": (
        "JambaConfig",
        {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 4, "mamba_d_state": 8},
    ),
    "bamba": ("BambaConfig", _MAMBA | {"attn_layer_indices": [1]}),
    "falcon_h1": ("FalconH1Config", _MAMBA | {"mamba_d_ssm": 128}),
    "granitemoehybrid": (
        "GraniteMoeHybridConfig",
        _MAMBA | _HYBRID | {"num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 32},
    ),
    "nemotron_h": (
        "NemotronHConfig",
        {
            "layer_types": ["linear_attention", "full_attention", "moe"],
            "mamba_num_heads": 4,
            "mamba_head_dim": 32,
            "ssm_state_size": 8,
            "n_groups": 2,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "moe_shared_expert_intermediate_size": 32,
        },
    ),
    "qwen3_5_moe_text": (
        "Qwen3_5MoeTextConfig",
        _DELTA | _MOE | {"shared_expert_intermediate_size": 32},
    ),
    "qwen3_next": ("Qwen3NextConfig", _DELTA | _MOE | {"shared_expert_intermediate_size": 32}),
    "qwen3_5_text": ("Qwen3_5TextConfig", _DELTA),
    "qwen4_exp_text": (
        "Qwen4ExpTextConfig",
        _DELTA
        | _MOE
        | {
            "layer_types": ["linear_attention", "indexed_attention", "linear_attention"],
            "shared_expert_intermediate_size": 32,
            "indexer_n_heads": 16,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 16,
            "indexer_budget": 8,
            "indexer_compress_ratio": 4,
            "ple_layer_ids": [1],
            "ngram_vocab_size_base": 64,
            "heads_per_ngram": 2,
        },
    ),
    "recurrent_gemma": (  # in attributes of their own
        "RecurrentGemmaConfig",
        {"lru_width": 64, "attention_window_size": 8, "block_types": ["recurrent", "recurrent", "attention"]},
    ),
    # Layers share an attention, by turns with other layers.
    "zamba": (
        "ZambaConfig",
        _SHARED | {"layer_types": ["linear_attention", "hybrid", "hybrid"], "mamba_d_state": 8},
    ),
    "zamba2": (
        "Zamba2Config",
        _SHARED
        | {
            "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
            "hybrid_layer_ids": [1, 2],
            "mamba_d_state": 8,
            "mamba_headdim": 16,
            "n_mamba_heads": 8,
            "time_step_min": 1e-6,  # `generate` holds to it in the prompt only
        },
    ),
    # Layers attend twice.
    "diffllama": ("DiffLlamaConfig", {}),
    "hrm_text": ("HrmTextConfig", {"num_hidden_layers": 2, "H_cycles": 2, "L_cycles": 1}),
    "minimax": ("MiniMaxConfig", _HYBRID | {"num_local_experts": 4}),
}
# That transformers' own code runs, for tests of device groups alone.
SPLIT_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "falcon_mamba": ("FalconMambaConfig", {"state_size": 8}),
    "hunyuan_v1_dense": ("HunYuanDenseV1Config", {"head_dim": 16}),
    "lfm3": ("Lfm3Config", {"layer_types": ["conv", "full_attention", "conv"], "head_dim": 16}),
}
_PLAIN_AT_FIRST = (
    "norm",
    "Norm",
    "ln_",
    "sinks",
    "_bias",
    "attn.A",
)  # all ones or nearly zero: nothing to get wrong
_EAGER = {"gemma2"}  # with SDPA, transformers 5.17 silently drops its soft cap


def build(family: str, **changes: Any) -> Any:
    """The model itself, in float32, the same for the same arguments."""
    torch.manual_seed(7)
    name, options = (FAMILIES | SPLIT_FAMILIES)[family]
    config_class = getattr(transformers, name)
    computed = [key for key in _COMMON if isinstance(getattr(config_class, key, None), property)]
    common = {key: value for key, value in _COMMON.items() if key not in computed}
    config = config_class(**common | options | changes)
    attention = "eager" if family in _EAGER else None
    model = transformers.AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=attention
    )
    for name, tensor in model.state_dict().items():  # with the buffers that are saved
        if any(part in name for part in _PLAIN_AT_FIRST):
            torch.nn.init.normal_(tensor, mean=tensor.mean().item(), std=0.5)
    return model.eval()


def save(
    path: Path,
    family: str = "llama",
    *,
    edit: Callable[[Any], object] = lambda _: None,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> Path:
    """Save the model as a directory, after `edit` has changed it."""
    model = build(family, **changes)
    edit(model)
    transformers.logging.disable_progress_bar()
    model.to(dtype).save_pretrained(path)
    return path
