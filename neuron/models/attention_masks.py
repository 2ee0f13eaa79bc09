"""The masks that transformers makes for a model while it is probed, and the rule of each.

A rule is an `AttentionSpan`: positions alone say which token sees which. A model that wants another is
refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from neuron.step import PromptRule

MaskFunction = Callable[[int, int, Tensor, Tensor], Tensor | bool]  # of batch, head, query and key


class UnsupportedAttentionError(Exception):
    """A model asks of its attention what the paged cache does not do; the message says what."""


@dataclass(frozen=True, slots=True)
class AttentionSpan:
    """Which positions a token sees: `AttentionParams`' window, chunk, prompt and images."""

    window: int | None = None
    chunk: int | None = None
    prompt: PromptRule | None = None
    images: bool = False

    def shows(self, query: int, key: int) -> bool:
        """Return whether a token of a prompt sees another."""
        return self.shows_beside(query, key, range(0))

    def shows_beside(self, query: int, key: int, image: range) -> bool:
        """Return whether a token of a prompt sees another, where some of the tokens are an image's."""
        if self.prompt:
            return key <= query or self.prompt is PromptRule.WHOLE
        in_image = self.images and query in image and key in image
        in_window = self.window is None or key > query - self.window
        in_chunk = self.chunk is None or key // self.chunk == query // self.chunk
        return (key <= query or in_image) and in_window and in_chunk


class MaskRecorder:
    """The masks that a model makes during a probe, each with its rule.

    If the model `is_told` that all tokens are a prompt, they may see later ones.
    """

    def __init__(self, *, is_told: bool) -> None:
        self._is_told = is_told
        self._masks: list[tuple[Tensor, AttentionSpan | str]] = []  # a rule that we lack is the words for it

    def make(
        self, mask_function: MaskFunction, count: int, local_size: int | None, device: torch.device
    ) -> Tensor:
        rows = mask_rows(mask_function, count)
        mask = torch.tensor(rows, device=device)[None, None]
        if self._is_told and bool(mask.all()):
            rule: AttentionSpan | str = AttentionSpan(window=local_size, prompt=PromptRule.WHOLE)
        else:
            rule = _rule(mask_function, rows, local_size)
        self._masks.append((mask, rule))
        return mask

    def span(self, _: int, mask: Tensor | None, options: Mapping[str, Any]) -> AttentionSpan:
        if mask is None:
            if options.get("is_causal") is False:
                raise UnsupportedAttentionError(_BIDIRECTIONAL)
            return AttentionSpan(window=options.get("sliding_window"))
        for made, rule in self._masks:
            if is_same_mask(made, mask):
                if isinstance(rule, str):
                    raise UnsupportedAttentionError(rule)
                return rule
        raise UnsupportedAttentionError(OWN_MASK)


def mask_rows(mask_function: MaskFunction, count: int) -> list[list[bool]]:
    """Return which of the first `count` keys each of as many queries sees."""
    indices = [torch.tensor(position) for position in range(count)]
    return [[bool(mask_function(0, 0, query, key)) for key in indices] for query in indices]


def is_same_mask(made: Tensor, given: Tensor) -> bool:
    """Return whether a layer was given a mask that was made before, perhaps as a view of it."""
    return made.untyped_storage().data_ptr() == given.untyped_storage().data_ptr()


OWN_MASK = "it brings its own attention mask"
_BIDIRECTIONAL = "its tokens attend to later ones"


def _rule(mask_function: MaskFunction, rows: list[list[bool]], local_size: int | None) -> AttentionSpan | str:
    """Return the span of a mask function whose values for the first tokens are `rows`."""
    span = AttentionSpan()
    if local_size is not None:
        if local_size < 1:
            return OWN_MASK
        span = _local_span(mask_function, local_size)
    seen = [(query, key) for query, row in enumerate(rows) for key, shown in enumerate(row) if shown]
    if any(key > query for query, key in seen):
        return _BIDIRECTIONAL
    count = range(len(rows))
    if seen != [(query, key) for query in count for key in count if span.shows(query, key)]:
        return OWN_MASK
    return span


def _local_span(mask_function: MaskFunction, size: int) -> AttentionSpan:
    """Return the span of a rule that says of itself that it is local, and of which size."""

    def shows(query: int, key: int) -> bool:
        return bool(mask_function(0, 0, torch.tensor(query), torch.tensor(key)))

    try:
        if all(shows(3 * size, key) for key in (0, size, 2 * size)):  # while all tokens are a prompt's
            return AttentionSpan(window=size, prompt=PromptRule.KEPT)
        # Whether the first token of the third chunk sees the last of the second.
        is_window = size == 1 or shows(2 * size, 2 * size - 1)
    except IndexError:  # the rule also looks up the tokens at these positions; only windows come with that
        is_window = True
    return AttentionSpan(window=size) if is_window else AttentionSpan(chunk=size)


class ImageMaskRecorder:
    """The masks of a model that is told which of its tokens are an image's.

    Its layers have the spans of a text without images, but that the tokens of an image may see each other.
    """

    def __init__(self, spans: Mapping[int, AttentionSpan], image: range) -> None:
        self._spans = spans
        self._image = image
        self._masks: list[tuple[Tensor, list[list[bool]]]] = []

    def make(
        self, mask_function: MaskFunction, count: int, local_size: int | None, device: torch.device
    ) -> Tensor:
        rows = mask_rows(mask_function, count)
        mask = torch.tensor(rows, device=device)[None, None]
        self._masks.append((mask, rows))
        return mask

    def span(self, layer: int, mask: Tensor | None, _: Mapping[str, Any]) -> AttentionSpan:
        if (span := self._spans.get(layer)) is None:
            raise UnsupportedAttentionError(f"layer {layer} attends to images only")
        if mask is None:
            return span
        rows = next((rows for made, rows in self._masks if is_same_mask(made, mask)), None)
        for known in (span, replace(span, images=True)):
            if rows is not None and self._agrees(known, rows):
                return known
        raise UnsupportedAttentionError("the tokens of its images see others in a way of its own")

    def _agrees(self, span: AttentionSpan, rows: Sequence[Sequence[bool]]) -> bool:
        return all(
            shown == span.shows_beside(query, key, self._image)
            for query, row in enumerate(rows)
            for key, shown in enumerate(row)
        )
