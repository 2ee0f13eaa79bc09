"""A model of Qwen3's shape as a GGUF file, its matrices all in one format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
from gguf import GGMLQuantizationType, GGUFWriter
from torch import Tensor

FORMATS = ("f32", "bf16", "q8_0", "q4_0")  # of matrices, as GGUF calls them
ARCHITECTURE = gguf.MODEL_ARCH.QWEN3


def write_gguf(file: Path, model: Any, type_name: str) -> Path:
    """Write transformers' `model`, its matrices in the format `type_name`, to `file` and return it."""
    config = model.config
    writer = GGUFWriter(file, gguf.MODEL_ARCH_NAMES[ARCHITECTURE])
    _add_config(writer, config)
    names = gguf.get_tensor_name_map(ARCHITECTURE, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        stored = names.get_name(name, try_suffixes=(".weight",))
        _add_tensor(writer, stored, tensor, _type(type_name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def bytes_multiplied(model: Any, type_name: str) -> int:
    """The bytes of the matrices that a decode step multiplies by: of all but the embedding's."""
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[_type(type_name)]
    embedding = model.get_input_embeddings().weight
    matrices = [weight for weight in model.parameters() if weight.ndim > 1 and weight is not embedding]
    return sum(weight.numel() for weight in matrices) * block_bytes // block_size


def _type(name: str) -> GGMLQuantizationType:
    return GGMLQuantizationType[name.upper()]


def _add_config(writer: GGUFWriter, config: Any) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")


def _add_tensor(writer: GGUFWriter, name: str, tensor: Tensor, kind: GGMLQuantizationType) -> None:
    values = tensor.float().numpy()
    if tensor.ndim == 1:  # norms, which llama.cpp has in float32 only
        kind = GGMLQuantizationType.F32
    blocks = values if kind is GGMLQuantizationType.F32 else gguf.quants.quantize(values, kind)
    writer.add_tensor(name, blocks, raw_dtype=kind)
