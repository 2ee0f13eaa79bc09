"""The seam between a model's layers and the KV cache.

A layer calls `attend` with the queries, keys and values of the step's flat batch. The device's thread chooses
with `use_backend` what computes the result for one forward pass, and what it reads and writes.

    SdpaAttention       gathers pages, or reads them in C       sdpa, attention_step
    VarlenAttention     reads pages in place                    varlen
    AttentionProbe      records what a model asks for           neuron.models.attention_interface
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from neuron.device.latent import LatentProjection
from neuron.device.selection import Compressed, Selection
from neuron.step import PromptRule


@dataclass(frozen=True, slots=True)
class AttentionParams:
    """How one layer attends."""

    scale: float
    window: int | None = None  # positions seen, the query's own included; None: all
    chunk: int | None = None  # positions in a chunk; a query sees its own chunk only
    softcap: float | None = None
    sinks: Tensor | None = None  # (heads,): the logit of a key that holds nothing
    prompt: PromptRule | None = None  # which also lets some queries see keys of the prompt
    images: bool = False  # whether the tokens of an image see each other, later ones too
    latent: LatentProjection | None = None  # what is cached is a latent: one head, whose values are its keys
    selection: Selection | None = None  # what an indexer chose of the positions; None: all
    compressed: Compressed | None = None  # what is attended to besides tokens

    @property
    def is_softmax(self) -> bool:
        """Whether there is neither a soft cap nor sinks."""
        return self.softcap is None and self.sinks is None

    @property
    def is_local(self) -> bool:
        """Whether a query sees some of the positions before it only."""
        return self.window is not None or self.chunk is not None

    @property
    def is_plain(self) -> bool:
        """Whether every kernel computes it for tokens of text: a softmax over all positions or a window."""
        return self.sinks is None and self.is_plain_but_for_sinks

    @property
    def is_plain_but_for_sinks(self) -> bool:
        """Whether it would be without its sinks."""
        others = self.softcap, self.chunk, self.prompt, self.selection, self.compressed
        return not any(others)


class AttentionBackend(Protocol):
    @property
    def takes_floats(self) -> bool:
        """Whether queries, keys and values may be float32, rounded to what is stored, whatever that is."""

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, *, params: AttentionParams
    ) -> Tensor:
        """Return the attention of `query`, (tokens, heads, value_dim).

        `query` is (tokens, heads, dim), `key` (tokens, kv_heads, dim), `value` (tokens, kv_heads, value_dim).
        With `params.latent`, key and value are one tensor, (tokens, 1, rank + rotated).
        """


_backend: ContextVar[AttentionBackend] = ContextVar("attention_backend")


@contextmanager
def use_backend(backend: AttentionBackend) -> Iterator[None]:
    """Let `attend` call `backend` inside the block."""
    token = _backend.set(backend)
    try:
        yield
    finally:
        _backend.reset(token)


def takes_floats() -> bool:
    """Return whether the current backend takes float32 where something else is stored."""
    return _backend.get().takes_floats


def attend(layer: int, query: Tensor, key: Tensor, value: Tensor, *, params: AttentionParams) -> Tensor:
    """Return what the current `AttentionBackend` computes for one layer."""
    return _backend.get()(layer, query, key, value, params=params)
