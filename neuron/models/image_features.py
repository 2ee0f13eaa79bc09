"""What a vision tower of transformers returns for an image, cut and joined by placeholder.

Classes return it in shapes of their own: a tensor for each image, for each tile or for all, and often more
than one: some layers of the text get features besides. What is kept is that of each placeholder, with the
shape in which the class takes it back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

# Where a class returns what placeholders show; of the first that it returns, each row is a placeholder's.
_SHOWN = ("pooler_output", "deepstack_features", "last_hidden_state")
_UNUSED = {"last_hidden_state", "hidden_states", "attentions"}  # of the tower itself, if it returns others


@dataclass(frozen=True, slots=True)
class _Part:
    """A field: rows for each layer that gets some, and what makes of them what the class takes."""

    rows: list[Tensor]
    wrap: Callable[[list[Tensor]], Any]


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An `ImageFeatures`, of one image or several."""

    kind: type  # of the `ModelOutput`
    shown: str  # the field with the embeddings
    parts: Mapping[str, _Part]
    others: Mapping[str, Any]  # fields that don't belong to single placeholders

    @classmethod
    def of(cls, output: Any) -> EncodedImage:
        """Return what a class has made of an image. Raises ValueError when it has made nothing of it."""
        shown = next((name for name in _SHOWN if output.get(name) is not None), None)
        if shown is None:
            raise ValueError("its vision tower returns no features")
        first = output[shown][0] if shown == "deepstack_features" else output[shown]
        count = sum(leaf.numel() // leaf.shape[-1] for leaf in _leaves(first))
        used = {name: value for name, value in output.items() if name == shown or name not in _UNUSED}
        parts = {name: part for name, value in used.items() if (part := _by_row(value, count))}
        return cls(type(output), shown, parts, {name: used[name] for name in used.keys() - parts.keys()})

    @classmethod
    def joined(cls, images: Sequence[EncodedImage]) -> EncodedImage:
        """Return several one after the other."""
        first = images[0]
        parts = {}
        for name, part in first.parts.items():
            layers = zip(*(image.parts[name].rows for image in images), strict=True)
            parts[name] = replace(part, rows=[torch.cat(rows) for rows in layers])
        return replace(first, parts=parts)

    @property
    def embeddings(self) -> Tensor:
        return self.parts[self.shown].rows[0]

    def __len__(self) -> int:
        return len(self.embeddings)

    def __getitem__(self, part: slice) -> EncodedImage:
        return self._map(lambda rows: rows[part])

    def spread(self, places: Tensor, embedded: Tensor) -> EncodedImage:
        """Return as many rows as are `embedded`: those of the images at `places`, elsewhere their own."""

        def fill(rows: Tensor) -> Tensor:
            return rows.new_zeros(len(embedded), rows.shape[1]).index_copy(0, places, rows)

        filled = self._map(fill)
        rows = embedded.to(self.embeddings).index_copy(0, places, self.embeddings)
        filled.parts[self.shown].rows[0] = rows
        return filled

    def output(self) -> Any:
        """Return it as the class did."""
        return self.kind(**self.others, **{name: part.wrap(part.rows) for name, part in self.parts.items()})

    def _map(self, change: Callable[[Tensor], Tensor]) -> EncodedImage:
        return replace(
            self,
            parts={
                name: replace(part, rows=[change(rows) for rows in part.rows])
                for name, part in self.parts.items()
            },
        )


def _leaves(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, list | tuple) else []


def _by_row(value: Any, count: int) -> _Part | None:
    """Return the part of a value that has `count` rows, or in several layers as many each; else None."""
    leaves = _leaves(value)
    if not leaves or any(leaf.ndim < 2 for leaf in leaves):
        return None
    flat = [leaf.reshape(-1, leaf.shape[-1]) for leaf in leaves]
    wrap = _shaped(leaves[0].ndim)
    if isinstance(value, Tensor):
        return _Part(flat, lambda rows: wrap(rows[0])) if len(flat[0]) == count else None
    if len(value) == 2 and isinstance(value[0], int):  # a layer's number with its rows
        layer = _by_row(value[1], count)
        return layer and _Part(layer.rows, lambda rows: (value[0], layer.wrap(rows)))
    if sum(map(len, flat)) == count and len({rows.shape[1] for rows in flat}) == 1:
        return _Part([torch.cat(flat)], lambda rows: (wrap(rows[0]),))
    layers = [layer for item in value if (layer := _by_row(item, count)) and len(layer.rows) == 1]
    if len(layers) != len(value):
        return None
    return _Part(
        [layer.rows[0] for layer in layers],
        lambda rows: [layer.wrap([one]) for layer, one in zip(layers, rows, strict=True)],
    )


def _shaped(ndim: int) -> Callable[[Tensor], Tensor]:
    """Return what gives rows, (n, dim), leading dimensions of 1."""
    return lambda rows: rows.reshape(*(1,) * (ndim - 2), *rows.shape)
