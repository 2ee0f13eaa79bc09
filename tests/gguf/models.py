"""Tiny random models of transformers, written as GGUF by the format's own package.

Names come from that package's tables, so that nothing of ours is checked against itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from neuron.models.tiny import WEIGHTS_DIR
from tests.gguf.texts import add_key, tokenizer_keys

Blocks = np.ndarray[Any, np.dtype[np.uint8]]
VOCABULARY = 128
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 512,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "initializer_range": 0.1,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256}
_TIED = {"tie_word_embeddings": True}


@dataclass(frozen=True)
class Example:
    """A model that is written: transformers' name and sizes, GGUF's name, and what conversion changes."""

    model_type: str
    architecture: str
    sizes: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)  # those beside what all have, without architecture
    permutes: bool = False
    adds_one: bool = False
    tensors: dict[str, list[float]] = field(default_factory=dict)  # that are no parameters


def _rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


# As of a context of 64: the first frequencies stay, the last turn eight times as slowly.
_LLAMA3 = _rope(
    "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
)
_YARN = _rope("yarn", factor=4.0, original_max_position_embeddings=128, beta_fast=32.0, beta_slow=1.0)
_YARN_KEYS = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}
_YARN_KEYS |= {"rope.scaling.original_context_length": 128}
_LONG, _SHORT = [2.0 + i / 4 for i in range(16)], [1.0 + i / 8 for i in range(16)]

EXAMPLES = {
    "llama": Example("llama", "llama", permutes=True),
    "llama3": Example("llama", "llama", {**_LLAMA3, **_TIED}, permutes=True),
    "mistral": Example("mistral", "llama", {"sliding_window": None}, permutes=True),
    "mixtral": Example(
        "mixtral",
        "llama",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
        permutes=True,
    ),
    "qwen2": Example("qwen2", "qwen2"),
    "qwen2_moe": Example(
        "qwen2_moe",
        "qwen2moe",
        {**_EXPERTS, "shared_expert_intermediate_size": 256},
        {"expert_shared_feed_forward_length": 256},
    ),
    "qwen3": Example("qwen3", "qwen3", {**_YARN, **_TIED}, _YARN_KEYS),
    "qwen3_moe": Example("qwen3_moe", "qwen3moe", {**_EXPERTS, "norm_topk_prob": True}),
    "gemma": Example("gemma", "gemma", _TIED, adds_one=True),
    "gemma2": Example(
        "gemma2",
        "gemma2",
        {**_TIED, "query_pre_attn_scalar": 64, "sliding_window": 8},
        {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "attention.sliding_window": 8},
        adds_one=True,
    ),
    "gemma3": Example(
        "gemma3_text",
        "gemma3",
        {
            **_TIED,
            "query_pre_attn_scalar": 64,
            "sliding_window": 8,
            "num_hidden_layers": 7,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
        {
            "attention.sliding_window": 8,
            "rope.freq_base": 1e6,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
        },
        adds_one=True,
    ),
    "phi3": Example(
        "phi3",
        "phi3",
        {
            "sliding_window": 8,
            "original_max_position_embeddings": 128,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.5,
                "long_factor": _LONG,
                "short_factor": _SHORT,
                "original_max_position_embeddings": 128,
                "attention_factor": 1.25,
            },
        },
        {
            "attention.sliding_window": 8,
            "rope.dimension_count": 32,
            "rope.scaling.original_context_length": 128,
            "rope.scaling.attn_factor": 1.25,
        },
        tensors={"rope_factors_long.weight": _LONG, "rope_factors_short.weight": _SHORT},
    ),
    "gpt_oss": Example(
        "gpt_oss",
        "gpt-oss",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 8,
            "rope_parameters": {**_YARN["rope_parameters"], "truncate": False},
        },
        {**_YARN_KEYS, "attention.sliding_window": 8, "expert_feed_forward_length": 256},
    ),
    "granite": Example(
        "granite",
        "granite",
        {
            "logits_scaling": 2.0,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.2,
        },
        {"logit_scale": 2.0, "embedding_scale": 3.0, "residual_scale": 0.5, "attention.scale": 0.2},
        permutes=True,
    ),
    "olmo2": Example("olmo2", "olmo2"),
    "olmoe": Example("olmoe", "olmoe", {"num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": False}),
    "seed_oss": Example("seed_oss", "seed_oss"),
    "glm4": Example(
        "glm4", "glm4", _rope("default", partial_rotary_factor=0.5), {"rope.dimension_count": 32}
    ),
    "smollm3": Example("smollm3", "smollm3", {"num_hidden_layers": 5}, permutes=True),
    "lfm2": Example(
        "lfm2",
        "lfm2",
        {**_TIED, "block_auto_adjust_ff_dim": False, "conv_L_cache": 3}
        | {"layer_types": ["conv", "full_attention", "conv"]},
        {"shortconv.l_cache": 3, "attention.head_count_kv": [0, 2, 0]},
    ),
}


_STAYS_PLAIN = re.compile(r"bias$|router|mlp\.gate\.weight$|conv\.conv")  # as conversion leaves it


def build(name: str, **sizes: Any) -> Any:
    """Return the random model of an example, of float32."""
    example = EXAMPLES[name]
    torch.manual_seed(7)
    config = CONFIG_MAPPING[example.model_type](**{**SIZES, **example.sizes, **sizes})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2 and parameter.std() < 1e-3:  # norms and biases, all ones or zeros
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


Tensors = dict[str, Any]


def write(
    path: Path,
    name: str,
    model: Any,
    kind: Kind = Kind.F32,
    *,
    keys: dict[str, Any] | None = None,
    change: Callable[[Tensors], Tensors] = dict,
    split_max_tensors: int = 0,
) -> None:
    """Write a model; its own weights become what the stored ones stand for.

    `keys` go before the model's own (None: without it), and `change` changes what is written.
    """
    example = EXAMPLES[name]
    keys = keys or {}
    writer = gguf.GGUFWriter(
        path, keys.get("general.architecture", example.architecture), split_max_tensors=split_max_tensors
    )
    found = {f"{example.architecture}.{key}": value for key, value in (_keys(model) | example.keys).items()}
    for key, value in (found | keys).items():
        if value is not None and key != "general.architecture":
            add_key(writer, key, value)
    written = {tensor_name: data for tensor_name, *data in tensors(example, model, kind)}
    plain = {tensor_name: data for tensor_name, (data, _) in written.items()}
    for tensor_name, data in change(plain).items():
        writer.add_tensor(tensor_name, data, raw_dtype=_kind_of(written, tensor_name, data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _kind_of(written: dict[str, Any], name: str, data: Any) -> Kind | None:
    return written[name][1] if name in written and data.dtype == np.uint8 else None


def fused(tensors: Tensors) -> Tensors:
    """Return the tensors with those joined that the format allows to be."""
    joins = {
        "attn_qkv": (0, ["attn_q", "attn_k", "attn_v"]),
        "ffn_gate_up_exps": (1, ["ffn_gate_exps", "ffn_up_exps"]),
    }
    found = dict(tensors)
    for target, (axis, stems) in joins.items():
        for first in [name for name in tensors if f".{stems[0]}." in name]:
            parts = [found.pop(first.replace(stems[0], stem)) for stem in stems]
            found[first.replace(stems[0], target)] = np.concatenate(parts, axis)
    return found


def split_experts(tensors: Tensors) -> Tensors:
    """Return the tensors with those of every expert apart."""
    found: Tensors = {}
    for name, data in tensors.items():
        if "_exps" in name:
            found |= {name.replace("_exps", f".{expert}"): rows for expert, rows in enumerate(data)}
        else:
            found[name] = data
    return found


def _keys(model: Any) -> dict[str, Any]:
    config = model.config
    rope, heads = config.rope_parameters or {}, config.num_attention_heads
    keys = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": SIZES["head_dim"],
        "attention.layer_norm_rms_epsilon": getattr(config, "rms_norm_eps", None) or config.norm_eps,
    }
    if "rope_theta" in rope:
        keys["rope.freq_base"] = float(rope["rope_theta"])
    experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
    if experts:
        keys["expert_count"] = experts
        keys["expert_used_count"] = config.num_experts_per_tok
    if size := getattr(config, "moe_intermediate_size", None):
        keys["expert_feed_forward_length"] = size
    return keys


def tensors(example: Example, model: Any, kind: Kind) -> Iterator[tuple[str, Any, Kind]]:
    """Yield name, data and kind of each tensor; sets the model's weights to what they stand for."""
    architecture = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == example.architecture)
    names = gguf.get_tensor_name_map(architecture, model.config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        is_turned = example.model_type == "gpt_oss" and name.endswith(("gate_up_proj", "down_proj"))
        rows = parameter.data.transpose(1, 2) if is_turned else parameter.data
        own_kind = Kind.F32 if rows.ndim < 2 or _STAYS_PLAIN.search(name) else kind
        blocks, stands_for = _stored(rows.contiguous(), own_kind)
        parameter.data = stands_for.transpose(1, 2).contiguous() if is_turned else stands_for
        for part, data in _converted(example, model.config, name, blocks):
            target = names.get_name(part, try_suffixes=(".weight", ".bias"))
            assert target, part
            yield target, np.ascontiguousarray(data), own_kind
    for name, values in example.tensors.items():
        yield name, np.array(values, dtype=np.float32), Kind.F32
    if example.model_type == "llama" and model.config.rope_parameters["rope_type"] == "llama3":
        yield "rope_freqs.weight", _divisors(model), Kind.F32


def _divisors(model: Any) -> Any:
    """Return by how much slower each frequency is than without scaling."""
    base = model.config.rope_parameters["rope_theta"]
    dim = model.config.head_dim
    plain = 1.0 / base ** (torch.arange(0, dim, 2).float() / dim)
    return (plain / model.model.rotary_emb.inv_freq).numpy()


def _stored(rows: Tensor, kind: Kind) -> tuple[Any, Tensor]:
    """Return what is written for rows, and what that stands for."""
    if kind is Kind.F32:
        return rows.numpy(), rows
    make = RANDOM_BLOCKS.get(kind)
    blocks = make(rows) if make else gguf.quants.quantize(rows.numpy(), kind)
    return blocks, torch.from_numpy(gguf.quants.dequantize(blocks, kind).reshape(rows.shape).copy())


def _random_blocks(num_bytes: int, scales: slice, size: float) -> Callable[[Tensor], Blocks]:
    """Return a maker of blocks that no quantizer made: any bytes are some, with scales that are small."""

    def make(rows: Tensor) -> Blocks:
        random = np.random.default_rng(rows.numel())
        shape = (*rows.shape[:-1], rows.shape[-1] // 256, num_bytes)
        blocks = random.integers(0, 256, shape, dtype=np.uint8)
        count = len(range(num_bytes)[scales]) // 2
        values = random.uniform(size / 2, size, (*shape[:-1], count)).astype(np.float16)
        blocks[..., scales] = values.view(np.uint8)
        return blocks.reshape(*rows.shape[:-1], -1)

    return make


RANDOM_BLOCKS = {
    Kind.Q4_K: _random_blocks(144, slice(0, 4), 3e-4),
    Kind.Q6_K: _random_blocks(210, slice(208, 210), 5e-5),
}


def _converted(example: Example, config: Any, name: str, data: Any) -> Iterator[tuple[str, Any]]:
    """Yield the tensors that conversion makes of a parameter, with names that the package's tables know."""
    if "experts.gate_up_proj" in name:
        every_other = example.model_type == "gpt_oss"
        half = data.shape[1] // 2
        gate = data[:, ::2] if every_other else data[:, :half]
        up = data[:, 1::2] if every_other else data[:, half:]
        end = ".bias" if name.endswith("_bias") else ".weight"
        stem = name.removesuffix("_bias").removesuffix("gate_up_proj")
        yield f"{stem}gate_proj{end}", gate
        yield f"{stem}up_proj{end}", up
    elif "experts.down_proj" in name:
        yield (f"{name[:-5]}.bias" if name.endswith("_bias") else f"{name}.weight"), data
    elif name.endswith("sinks"):
        yield f"{name}.weight", data
    elif example.permutes and "q_proj" in name:
        yield name, _permuted(data, config.num_attention_heads)
    elif example.permutes and "k_proj" in name:
        yield name, _permuted(data, config.num_key_value_heads)
    elif example.adds_one and name.endswith("norm.weight"):
        yield name, data + 1
    elif name.endswith("conv.conv.weight"):
        yield name, data[:, 0]
    elif name.endswith("shared_expert_gate.weight"):
        yield name, data[0] if data.dtype == np.float32 else data
    else:
        yield name, data


def _permuted(data: Any, heads: int) -> Any:
    """Return rows with those next to each other that are rotated together."""
    return data.reshape(heads, 2, -1, *data.shape[1:]).swapaxes(1, 2).reshape(data.shape)


def write_tiny(path: Path, kind: Kind) -> Path:
    """Write the model that ships with neuron, tokenizer and template included."""
    model = AutoModelForCausalLM.from_pretrained(WEIGHTS_DIR, dtype=torch.float32)
    without = {f"qwen3.{key}": None for key in _YARN_KEYS}
    write(path, "qwen3", model, kind, keys=without | tokenizer_keys(WEIGHTS_DIR, "helexa-tiny"))
    return path
