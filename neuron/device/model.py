"""The seam between device and models: what the runner needs of a loaded model.

`neuron.models` implements these protocols, and the runner imports nothing of `neuron.models`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from neuron.device.state_pool import StateName, StateShape

ImageEmbeddings = Sequence[tuple[Tensor, Tensor]]
"""Pairs of rows in the flat batch, (k,), and the embeddings that replace their tokens' there, (k, hidden)."""


class VisionEncoder(Protocol):
    """A model's vision tower and projector."""

    def embed(self, pixels: Any) -> Tensor:
        """Return the embeddings of an image's placeholders, (placeholders, hidden)."""


class DecoderModel(Protocol):
    """A decoder whose layers call `neuron.device.attention.attend`."""

    vocab_size: int
    dtype: torch.dtype
    device: torch.device
    is_capturable: bool  # batches of one size run the same operations on the same tensors

    @property
    def states(self) -> Mapping[StateName, StateShape]:
        """What its layers keep of each sequence besides keys and values."""
        ...

    @property
    def vision_encoder(self) -> VisionEncoder | None: ...

    def __call__(
        self,
        tokens: Tensor,
        positions: Tensor,
        logits_indices: Tensor,
        image_embeddings: ImageEmbeddings = (),
        /,
    ) -> Tensor:
        """Return the logits after some tokens of a flat batch, (rows, vocab) in float32.

        `tokens` and `positions` are (n,), `logits_indices` (rows,): the rows of the batch whose logits are
        wanted, ascending.
        """
