"""How far a model's next tokens are from those of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from neuron.device.attention import use_backend
from neuron.models.attention_interface import AttentionProbe
from neuron.models.checkpoint import Checkpoint
from neuron.models.decoder import AnyDecoder, load_decoder
from neuron.models.weights import LoadOptions

CPU = torch.device("cpu")


def load(checkpoint: Checkpoint, **options: Any) -> AnyDecoder:
    """The decoder of a checkpoint, which computes in float32."""
    return load_decoder(checkpoint, LoadOptions(torch.float32, CPU, on_progress=lambda _: None, **options))


def log_probabilities(decoder: AnyDecoder, sequences: Sequence[Sequence[int]]) -> Tensor:
    """The logarithms of the probabilities of what follows each token, (tokens, vocabulary)."""
    return torch.cat([_logits(decoder, tokens).log_softmax(-1) for tokens in sequences])


def _logits(decoder: AnyDecoder, tokens: Sequence[int]) -> Tensor:
    positions = torch.arange(len(tokens))
    with torch.inference_mode(), use_backend(AttentionProbe()):
        return decoder(torch.tensor(tokens), positions, positions).float()


def divergence(reference: Tensor, other: Tensor) -> dict[str, float]:
    """The KL divergence from the `reference`, and how often the likeliest token is the same.

    Both are `log_probabilities`.
    """
    kl = (reference.exp() * (reference - other)).sum(-1).clamp(min=0)
    agree = reference.argmax(-1) == other.argmax(-1)
    return {
        "kl": kl.mean().item(),
        "kl_p99": kl.quantile(0.99).item(),
        "top1": agree.float().mean().item(),
    }
