"""The models that are measured: random weights on disk, loaded by the engine and by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from neuron.device.cuda_graphs import CudaGraphCapture
from neuron.device.memory import release_unused
from neuron.device.model_runner import ModelRunner
from neuron.device.varlen import find_varlen_kernel, select_kernel
from neuron.models.checkpoint import Checkpoint
from neuron.models.decoder import AnyDecoder, decoder_class, load_decoder, model_dtype
from neuron.models.in_situ.checkpoint import in_situ
from neuron.models.packed.checkpoint import packed
from neuron.models.packed.folder import PackedFolder
from neuron.models.reading import read_checkpoint
from neuron.models.weights import LoadOptions
from neuron.step import CacheShape

CACHE_TOKENS = 16_384
SLOTS = 32
# Qwen3's shape, 40 million parameters.
SMALL = {
    "vocab_size": 8192,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
}
# 184 million: in bfloat16 370 MB, more than caches hold, so that a decode step is bound by memory.
LARGE = SMALL | {
    "vocab_size": 16_384,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
}
# For --smoke: nothing in it takes time.
LEAST = SMALL | {"vocab_size": 2048, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}


class Sides(NamedTuple):
    """The same weights for the engine and for transformers."""

    decoder: AnyDecoder
    runner: ModelRunner
    model: Any


def random_weights(
    path: Path, shape: dict[str, int], dtype: torch.dtype = torch.float32, *, family: str = "Qwen3"
) -> Path:
    """Write a model with the configuration `family`Config of the given shape to `path` and return it."""
    random_model(shape, dtype, family=family).save_pretrained(path)
    return path


def random_model(shape: dict[str, int], dtype: torch.dtype = torch.float32, *, family: str = "Qwen3") -> Any:
    """Return transformers' model with the configuration `family`Config of the given shape."""
    torch.manual_seed(0)
    config_class = getattr(transformers, f"{family}Config")
    config = config_class(**shape, max_position_embeddings=8192, eos_token_id=None)
    return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)


def both(path: Path, dtype: torch.dtype, device: torch.device) -> Sides:
    decoder = decoder_of(path, device, dtype)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval().to(device)
    release_unused(device)  # as the worker does after a load; both sides gain by it
    return Sides(decoder, runner_of(decoder), model)


def checkpoint_of(
    path: Path, quant: str | None = None, packed_folder: PackedFolder | None = None
) -> Checkpoint:
    """A checkpoint as the worker reads it, quantized on the way if `quant` says so."""
    checkpoint = read_checkpoint(path)
    if quant is not None:
        checkpoint = in_situ(checkpoint, quant, decoder_class)
    return packed(checkpoint, packed_folder, quant, None, lambda _: None)


def decoder_of(
    path: Path,
    device: torch.device,
    dtype: torch.dtype | None = None,
    quant: str | None = None,
    packed_folder: PackedFolder | None = None,
) -> AnyDecoder:
    """The engine's decoder of a checkpoint; `dtype` None leaves that to the checkpoint."""
    checkpoint = checkpoint_of(path, quant, packed_folder)
    options = LoadOptions(dtype or model_dtype(checkpoint), device, on_progress=lambda _: None)
    return load_decoder(checkpoint, options)


def runner_of(decoder: AnyDecoder, *, drafts: bool = False) -> ModelRunner:
    """A runner as the worker makes it, of a model whose answers are drafted or not."""
    is_cuda = decoder.device.type == "cuda"
    kernel, size = select_kernel(
        find_varlen_kernel() if is_cuda else None, decoder.layers, decoder.dtype, decoder.device
    )
    shape = CacheShape(
        num_pages=CACHE_TOKENS // size,
        page_size=size,
        num_slots=SLOTS,
        context=4096,
        num_snapshots=2 * SLOTS if decoder.states else 0,
    )
    capture = CudaGraphCapture() if is_cuda else None
    return ModelRunner(
        decoder, decoder.layers, shape, kernel=kernel, capture=capture, states=decoder.states, drafts=drafts
    )
