"""Embedding models, encoders and decoders alike: transformers computes the hidden states, we pool them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import normalize
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from neuron.models.checkpoint import CONFIG, Checkpoint, model_broken
from neuron.models.decoder import OnProgress, build, context_of, model_unsupported
from neuron.models.pooling import Pooling, PoolingMode
from neuron.step import CacheShape, EmbeddingPlan, PoisonedError

_OFFSET_POSITIONS = {"camembert", "mpnet", "roberta", "xlm-roberta"}  # two rows of theirs are for padding
_PAD = 0  # any id: what stands there is masked


class Embedder:
    """Runs one step's inputs as one padded batch. Called by the thread that owns the device."""

    def __init__(self, model: Any, pooling: Pooling, context: int) -> None:
        self._model = model
        self._pooling = pooling
        self.dimensions: int = model.config.hidden_size
        self.vocab_size: int = model.get_input_embeddings().num_embeddings
        self.shape = CacheShape(num_pages=0, page_size=1, num_slots=0, context=context)

    @torch.inference_mode()
    def run(self, plan: EmbeddingPlan) -> list[bytes]:
        """A vector of little-endian float32 for each input."""
        try:
            vectors = self._embed(plan.inputs).float().cpu()
        except torch.AcceleratorError as error:
            raise PoisonedError(f"the device failed: {error}") from error
        if bool(vectors.isnan().any()):
            raise PoisonedError("the model's embeddings are not numbers")
        return [vector.numpy().astype("<f4").tobytes() for vector in vectors]

    def _embed(self, inputs: Sequence[Sequence[int]]) -> torch.Tensor:
        lengths = torch.tensor([len(tokens) for tokens in inputs], device=self._model.device)
        width = int(lengths.max())
        padded = [[*tokens, *[_PAD] * (width - len(tokens))] for tokens in inputs]
        mask = torch.arange(width, device=self._model.device) < lengths[:, None]
        hidden = self._model(
            input_ids=torch.tensor(padded, device=self._model.device), attention_mask=mask.long()
        ).last_hidden_state
        pooled = _pool(hidden, mask, lengths, self._pooling.mode)
        return normalize(pooled, dim=-1) if self._pooling.normalize else pooled


def _pool(hidden: torch.Tensor, mask: torch.Tensor, lengths: torch.Tensor, mode: PoolingMode) -> torch.Tensor:
    """(rows, tokens, dim) to (rows, dim), in float32; padding is on the right."""
    hidden = hidden.float()
    if mode == "cls":
        return hidden[:, 0]
    if mode == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]
    return (hidden * mask[:, :, None]).sum(dim=1) / lengths[:, None]


def load_embedder(
    checkpoint: Checkpoint,
    pooling: Pooling,
    *,
    dtype: torch.dtype,
    device: torch.device,
    on_progress: OnProgress,
) -> Embedder:
    """Raises LoadError; `on_progress` gets the share of bytes read, after every tensor."""
    config, model_class = _known(checkpoint)
    model = build(
        checkpoint, config, model_class, attention="sdpa", dtype=dtype, device=device, on_progress=on_progress
    )
    model.eval().requires_grad_(requires_grad=False)
    own = context_of(config) - (2 if checkpoint.config["model_type"] in _OFFSET_POSITIONS else 0)
    bounds = [own, *([pooling.max_tokens] if pooling.max_tokens else [])]
    return Embedder(model, pooling, min(bounds))


def _known(checkpoint: Checkpoint) -> tuple[Any, Any]:
    file, model_type = checkpoint.path / CONFIG, checkpoint.config.get("model_type")
    if model_type not in CONFIG_MAPPING:
        raise model_unsupported(file, f"model_type {model_type!r} is unknown")
    try:
        config = CONFIG_MAPPING[model_type].from_dict(checkpoint.config)
    except Exception as error:
        raise model_broken(file, f"is no configuration of {model_type}: {error}") from error
    if type(config) not in MODEL_MAPPING or config.is_encoder_decoder:
        raise model_unsupported(file, f"{model_type} has no hidden states to pool")
    known = MODEL_MAPPING[type(config)]
    return config, known[0] if isinstance(known, tuple) else known
