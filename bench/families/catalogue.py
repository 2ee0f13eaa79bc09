"""Which architectures are run: all of transformers that write or embed text, and variants of some."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers.models.auto import modeling_auto as auto

CAUSAL, IMAGE_TEXT, EMBEDDING, RANKING = "causal", "image-text", "embedding", "ranking"
_DECODERS_THAT_EMBED = {"gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen2_vl", "qwen3", "qwen3_vl"}
_EMBEDS = {*auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES, *auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES}
_EMBEDS |= {"clip", "siglip", *_DECODERS_THAT_EMBED}
KINDS: dict[str, frozenset[str]] = {
    CAUSAL: frozenset(auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    IMAGE_TEXT: frozenset(auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES),
    EMBEDDING: frozenset(_EMBEDS & auto.MODEL_MAPPING_NAMES.keys()),
    RANKING: frozenset(_EMBEDS & auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.keys()),
}
_LAYERS_SLIDE = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}
_SLIDING = {"layer_types": ["sliding_attention", "full_attention"] * 2}
_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_YARN = {"rope_type": "yarn", "factor": 4.0}
_ROPE = {"rope_theta": 10_000.0, "original_max_position_embeddings": 128}

# By label: model type, and changes to its tiny configuration.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bart, with its encoder": ("bart", {"is_encoder_decoder": True}),
    "bert, an encoder": ("bert", {"is_decoder": False}),
    "falcon, ALiBi": ("falcon", {"alibi": True}),
    "falcon, new": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon, sequential": ("falcon", {"parallel_attn": False, "multi_query": False, "bias": True}),
    "gemma3_text, bidirectional": ("gemma3_text", {"use_bidirectional_attention": True}),
    "glm_moe_dsa, shared indexers": ("glm_moe_dsa", {"indexer_types": ["full", "shared"] * 2}),
    "lfm2, with convolutions": ("lfm2", {"layer_types": ["conv", "full_attention"] * 2}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, llama3 positions": ("llama", {"rope_parameters": _LLAMA3 | _ROPE}),
    "llama, one key head": ("llama", {"num_key_value_heads": 1}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, yarn": ("llama", {"rope_parameters": _YARN | _ROPE}),
    "minimax_m3_vl_text, sparse": (
        "minimax_m3_vl_text",
        {"layer_types": ["full_attention", "minimax_m3_sparse"] * 2},
    ),
    "mixtral, window": ("mixtral", {"sliding_window": 8}),
    "phi3, window": ("phi3", {"sliding_window": 8}),
    "phimoe, window": ("phimoe", {"sliding_window": 8}),
    "qwen2, window": ("qwen2", _LAYERS_SLIDE | _SLIDING),
    "qwen2_moe, window": ("qwen2_moe", _LAYERS_SLIDE | _SLIDING),
    "qwen3, window": ("qwen3", _LAYERS_SLIDE | _SLIDING),
    "qwen4_exp_text, n-grams": (
        "qwen4_exp_text",
        {"ple_layer_ids": [1], "number_of_conv_states": 3, "ngram_vocab_size_base": 64, "heads_per_ngram": 2},
    ),
    "starcoder2, window": ("starcoder2", {"sliding_window": 8}),
}

# The suite's own: each way to attend, to route and to be refused, and what people run most.
PICKED = {
    CAUSAL: (
        "bart, with its encoder", "bert", "bert, an encoder", "bloom", "cohere2", "deepseek_v3", "exaone4",
        "falcon_h1", "gemma3_text, bidirectional", "gemma3n_text", "gemma4_text", "glm4_moe", "gpt2",
        "gpt_neox", "gpt_oss", "granite", "hunyuan_v1_moe", "llama4_text", "longcat_flash",
        "mixtral, window", "nemotron", "olmo3", "openai-gpt", "phi", "phimoe, window", "qwen2_moe, window",
        "qwen3_next", "qwen4_exp_text, n-grams", "smollm3",
    ),
    IMAGE_TEXT: (
        "deepseek_ocr2", "gemma3", "glm5_next", "internvl", "kosmos-2.5", "llava_next", "minicpmv4_6",
        "mistral3", "paligemma", "qwen2_vl", "unlimited_ocr",
    ),
    EMBEDDING: ("bert", "fnet", "mpnet", "qwen3_vl"),
    RANKING: ("deberta-v2", "modernbert", "qwen3", "xlm-roberta"),
}  # fmt: skip
SMOKE = {CAUSAL: ("llama", "bert"), IMAGE_TEXT: ("llava",), EMBEDDING: ("bert",), RANKING: ("bert",)}


@dataclass(frozen=True, slots=True)
class Case:
    """One architecture to run."""

    kind: str
    label: str
    model_type: str
    changes: dict[str, Any] = field(default_factory=dict)


def every_case() -> list[Case]:
    """All architectures of the installed transformers, and the variants."""
    found = [Case(kind, name, name) for kind, names in KINDS.items() for name in sorted(names)]
    return found + [case(CAUSAL, label) for label in sorted(VARIANTS)]


def case(kind: str, label: str) -> Case:
    model_type, changes = VARIANTS.get(label, (label, {}))
    return Case(kind, label, model_type, changes)


def picked(choice: dict[str, tuple[str, ...]]) -> list[Case]:
    return [case(kind, label) for kind, labels in choice.items() for label in labels]
