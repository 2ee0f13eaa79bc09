"""A way to multiply by stored weights on CUDA, of which the fastest is chosen when a model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from neuron.models.matrix import Matrix


class Candidate(NamedTuple):
    """`build` returns the product with a matrix that `suits`, a `Product` or a `GroupedProduct`."""

    name: str
    suits: Callable[[Matrix], bool]
    build: Callable[[Matrix], Any]
    is_packed: bool = False  # weights are held in a layout of its own, and not as they are stored
