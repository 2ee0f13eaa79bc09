"""The seam between device and models: what the runner needs of a loaded model.

`neuron.models` implements these protocols, and the runner imports nothing of `neuron.models`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from neuron.device.kv_cache import KVShape
from neuron.device.state_pool import StateName, StateShape
from neuron.step import PromptImage


class ImageFeatures(Protocol):
    """What a vision encoder makes of an image: an embedding for each placeholder, and what belongs to it."""

    @property
    def embeddings(self) -> Tensor:
        """(placeholders, hidden)."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> ImageFeatures:
        """Return those of some placeholders."""
        ...


ImageEmbeddings = Sequence[tuple[Tensor, ImageFeatures]]
"""Pairs of rows in the flat batch, (k,), ascending, and what the tokens there show."""


class VisionEncoder(Protocol):
    """A model's vision tower and projector."""

    def embed(self, pixels: Any) -> ImageFeatures:
        """Return what an image's placeholders show."""
        ...

    def positions(self, tokens: Sequence[int], images: Sequence[PromptImage]) -> Tensor | None:
        """Return the positions of a prompt's tokens, (axes, tokens); None where they are their places."""
        ...


class Adapters(Protocol):
    """Changes of a model's weights that some of its requests want."""

    def applied(self, adapters: Sequence[int | None], /) -> AbstractContextManager[None]:
        """Make them inside the block, given the number of the adapter of each row of the flat batch."""


@runtime_checkable
class RecordableModel(Protocol):
    """A decoder whose decode steps may be made of the operations of `ext.matmul` alone."""

    @property
    def is_recordable(self) -> bool:
        """Whether `compute` is, for one token of each sequence."""
        ...

    @property
    def embeds(self) -> bool:
        """Whether `compute` embeds tokens itself."""
        ...

    def embed(self, tokens: Tensor, /) -> Tensor:
        """Return their embeddings, (tokens, hidden) in float32."""
        ...

    def reaches(self, last: int, /) -> bool:
        """Return whether `compute` can go up to a position, which is asked before it does or is replayed."""
        ...

    def compute(self, tokens: Tensor, positions: Tensor, embedded: Tensor | None, /) -> Tensor:
        """Return the logits of all rows, (rows, vocab) in float32; of a rank, those of its part.

        Embeddings are given unless it `embeds`.
        """
        ...

    def finish(self, logits: Tensor, /) -> Tensor:
        """Return the logits of the whole model, given what `compute` returned, or its recording wrote."""
        ...


class DraftHead(Protocol):
    """A part of a model that guesses the token after the next one: a multi-token head.

    Of the model's hidden state at a token and of the token that follows it, it makes a hidden state of its
    own, from which the same head as the model's predicts. Its layer's keys and values are among the model's.
    """

    def new_states(self, count: int, /) -> Tensor:
        """Return room for hidden states, (count, hidden)."""
        ...

    def __call__(self, states: Tensor, tokens: Tensor, positions: Tensor, /) -> Tensor:
        """Return the states after `tokens`, (n, hidden), each of which follows one of `states` in the text.

        `positions` are those of `states`, (n,) or (axes, n).
        """
        ...

    def logits(self, states: Tensor, /) -> Tensor:
        """Return the logits after some of its states, (rows, vocab) in float32, or a rank's part of them."""
        ...

    def largest(self, logits: Tensor, vocab_size: int, /) -> list[int]:
        """Return the likeliest token of each row below `vocab_size`, of the whole model on each rank."""
        ...


@runtime_checkable
class RecordableHead(DraftHead, Protocol):
    """A head whose steps may be made of the operations of `ext.matmul` alone, as a `RecordableModel`'s."""

    @property
    def layers(self) -> Sequence[int]:
        """Those of the model's layers with keys and values that are its own."""
        ...

    @property
    def is_recordable(self) -> bool: ...

    @property
    def embeds(self) -> bool: ...

    def embed(self, tokens: Tensor, /) -> Tensor: ...

    def reaches(self, last: int, /) -> bool: ...

    def compute(
        self, states: Tensor, tokens: Tensor, positions: Tensor, embedded: Tensor | None, /
    ) -> Tensor:
        """Return what a call does, of a token of each sequence."""
        ...


@runtime_checkable
class HeadedModel(Protocol):
    """A decoder that may have such a head."""

    head: DraftHead | None
    hidden: Tensor | None  # after the last norm, of the rows that ran last; None without a head


def hidden_states(model: object) -> Tensor | None:
    """Return the hidden states of the rows that a model ran last, if it has a head that reads them."""
    return model.hidden if isinstance(model, HeadedModel) else None


class DecoderModel(Protocol):
    """A decoder whose layers call `neuron.device.attention.attend`."""

    vocab_size: int
    dtype: torch.dtype
    device: torch.device
    is_capturable: bool  # batches of one size run the same operations on the same tensors
    runs_rows_alone: bool  # a token may run as a sequence of its own, beside those before it

    @property
    def layers(self) -> Mapping[int, KVShape]:
        """What a token stores in each layer."""
        ...

    @property
    def states(self) -> Mapping[StateName, StateShape]:
        """What its layers keep of each sequence besides keys and values."""
        ...

    @property
    def vision_encoder(self) -> VisionEncoder | None: ...

    @property
    def adapters(self) -> Adapters | None:
        """None of a model whose layers take none."""
        ...

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
        wanted, ascending. Positions are (axes, n) where the tokens of images have several.
        """
