"""Decoders of classes that cannot go on from what they have read: each token is drawn from the whole text.

They keep nothing but the text itself. It lies in the pages where others keep keys, so prefixes, chunks and
preemption are those of all other models.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from neuron.device.kv_cache import KVShape
from neuron.device.model import ImageEmbeddings
from neuron.device.sequences import step_sequences
from neuron.models.architecture import context_length, model_unsupported
from neuron.models.checkpoint import Checkpoint
from neuron.models.probe import ordinary_tokens, refusing
from neuron.models.sequential_decoder import SequentialDecoder

_OTHER_MEMORIES = ("mems", "past_buckets_states")  # that `generate` goes on from
_SHIFTS = (0, 8, 16)  # a token is kept as three bytes, which every type of floats holds exactly


class RecomputingDecoder(SequentialDecoder):
    """A `neuron.device.model.DecoderModel` that reads a text anew for each token after it."""

    def __init__(self, model: Any, *, vocab_size: int, context: int) -> None:
        layers = {0: KVShape(kv_heads=1, key_dim=len(_SHIFTS), value_dim=1, is_text=True)}
        super().__init__(model, layers=layers, states={}, vocab_size=vocab_size, context=context)

    def __call__(
        self, tokens: Tensor, positions: Tensor, logits_indices: Tensor, _: ImageEmbeddings = ()
    ) -> Tensor:
        wanted = logits_indices.tolist()
        logits: list[Tensor] = []
        for sequence in step_sequences():
            rows = sequence.rows
            pieces = _to_bytes(tokens[rows], self.dtype)[None, None]
            text = _from_bytes(sequence.extend(0, pieces, pieces[..., :1])[0][0, 0])
            kept = sequence.chosen(wanted)
            logits += [next_logits(self._model, text[: sequence.start + index + 1]) for index in kept]
        return torch.stack(logits) if logits else torch.empty(0, self.vocab_size, device=self.device)


def load_recomputing(checkpoint: Checkpoint, model: Any, text_config: Any) -> RecomputingDecoder:
    """Return the decoder of a model that writes text without a cache. Raises ModelLoadError."""
    tokens = ordinary_tokens(model)
    taken = inspect.signature(model.forward).parameters
    if others := [name for name in _OTHER_MEMORIES if name in taken]:
        raise model_unsupported(checkpoint.path, f"it remembers by {others[0]}, a way of its own")
    with refusing(checkpoint.path), torch.inference_mode():
        vocab_size = next_logits(model, tokens).shape[-1]
    return RecomputingDecoder(model, vocab_size=vocab_size, context=context_length(text_config))


def next_logits(model: Any, text: Tensor) -> Tensor:
    """Return the logits after a text, (vocab,), as transformers generates without a cache."""
    inputs = model.prepare_inputs_for_generation(text[None], use_cache=False)
    logits: Tensor = model(**inputs).logits[0, -1]
    return logits.float()


def _to_bytes(tokens: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the bytes of tokens, (tokens, 3)."""
    return torch.stack([tokens >> shift & 0xFF for shift in _SHIFTS], dim=-1).to(dtype)


def _from_bytes(pieces: Tensor) -> Tensor:
    """Return the tokens whose bytes are `pieces`, (tokens, 3)."""
    return (pieces.long() << torch.tensor(_SHIFTS, device=pieces.device)).sum(dim=-1)
