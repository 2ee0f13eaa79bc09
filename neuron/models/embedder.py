"""Embedding models, encoders and decoders alike: transformers computes hidden states, and they are pooled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from neuron.models.architecture import context_length, model_class, model_unsupported, read_config
from neuron.models.checkpoint import Checkpoint
from neuron.models.pooling import Pooling, PoolingMode
from neuron.models.weights import LoadOptions, load_weights
from neuron.step import CacheShape, EmbeddingPlan, PoisonedError

_OFFSET_POSITIONS = {"camembert", "mpnet", "roberta", "xlm-roberta"}  # the first two positions are padding's
_PAD = 0  # any id: padding is masked
_SHORT, _LONG = (2,), (2,) * 12  # inputs that show whether padding is
_SAME = 0.999  # cosine, also in half precision


class Embedder:
    """Runs the inputs of one step as one padded batch, where the model allows. For the device's thread."""

    def __init__(self, model: Any, pooling: Pooling, context: int) -> None:
        self._model = model
        self._pooling = pooling
        self.vocab_size: int = model.get_input_embeddings().num_embeddings
        self.shape = CacheShape(num_pages=0, page_size=1, num_slots=0, context=context)
        with torch.inference_mode():
            alone, padded = self._embed([_SHORT]), self._embed([_SHORT, _LONG])[:1]
        self.dimensions = alone.shape[1]
        # Otherwise padding leaks into vectors, by convolutions or Fourier transforms over tokens.
        self._is_batched = float(torch.cosine_similarity(alone.float(), padded.float())) > _SAME

    @torch.inference_mode()
    def run(self, plan: EmbeddingPlan) -> list[bytes]:
        """Return a vector of little-endian float32 for each input.

        Raises PoisonedError when the device is unusable from now on.
        """
        try:
            batches = [plan.inputs] if self._is_batched else [[tokens] for tokens in plan.inputs]
            vectors = torch.cat([self._embed(inputs) for inputs in batches]).float().cpu()
        except torch.AcceleratorError as error:
            raise PoisonedError(f"the device failed: {error}") from error
        if bool(vectors.isnan().any()):
            raise PoisonedError("the model's embeddings are not numbers")
        return [vector.numpy().astype("<f4").tobytes() for vector in vectors]

    def _embed(self, inputs: Sequence[Sequence[int]]) -> Tensor:
        device = self._model.device
        lengths = torch.tensor([len(tokens) for tokens in inputs], device=device)
        width = int(lengths.max())
        padded = [[*tokens, *[_PAD] * (width - len(tokens))] for tokens in inputs]
        mask = torch.arange(width, device=device) < lengths[:, None]
        ids = torch.tensor(padded, device=device)
        hidden = self._model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        pooled = _pool(hidden, mask, lengths, self._pooling.mode)
        return normalize(pooled, dim=-1) if self._pooling.normalize else pooled


def _pool(hidden: Tensor, mask: Tensor, lengths: Tensor, mode: PoolingMode) -> Tensor:
    """Return (rows, dim) in float32 for hidden states of (rows, tokens, dim), padded on the right."""
    hidden = hidden.float()
    if mode == "cls":
        return hidden[:, 0]
    if mode == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]
    return (hidden * mask[:, :, None]).sum(dim=1) / lengths[:, None]


def embedder_class(checkpoint: Checkpoint, config: Any) -> Any:
    """Return transformers' class of a model without its head. Raises ModelLoadError."""
    found = model_class(MODEL_MAPPING, config)
    if found is None:
        cause = f"{config.model_type} has no hidden states to pool"
        raise model_unsupported(checkpoint.config_file, cause)
    return found


def load_embedder(
    checkpoint: Checkpoint,
    pooling: Pooling,
    options: LoadOptions,
) -> Embedder:
    """Return the embedding model of a checkpoint. Raises ModelLoadError."""
    config = read_config(checkpoint)
    found = embedder_class(checkpoint, config)
    model = load_weights(checkpoint, config, found, options, attention=None, is_headless=True)
    context = context_length(config.get_text_config())
    if config.model_type in _OFFSET_POSITIONS:
        context -= 2
    if pooling.max_tokens:
        context = min(context, pooling.max_tokens)
    try:
        return Embedder(model, pooling, context)
    except (torch.AcceleratorError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        cause = f"{config.model_type} makes no hidden states of text alone: {error!r}"
        raise model_unsupported(checkpoint.config_file, cause) from error
