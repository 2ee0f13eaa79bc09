"""Runs the steps of a model that embeds or ranks, each in as many turns as its plans say."""

from __future__ import annotations

from functools import partial
from typing import Protocol

import torch

from neuron.device.resumable import Resumable
from neuron.step import CacheShape, EmbeddingPlan, EncodedText


class EmbeddingModel(Protocol):
    """A model that makes a vector of each input."""

    shape: CacheShape
    dimensions: int
    ranks: bool
    device: torch.device

    def run(self, plan: EmbeddingPlan) -> list[bytes]:
        """Return a vector of little-endian float32 for each input.

        Raises PoisonedError when the device is unusable from now on.
        """
        ...


class EmbeddingRunner:
    """A model with the step that it is in the middle of, if any. For the device's thread."""

    def __init__(self, model: EmbeddingModel) -> None:
        self._model = model
        self.shape = model.shape
        self.dimensions = model.dimensions
        self.ranks = model.ranks
        self._step: tuple[tuple[EncodedText, ...], Resumable[list[bytes]]] | None = None

    def run(self, plan: EmbeddingPlan) -> list[bytes] | None:
        """Return a vector for each input, or None when the time of the plan was not enough.

        A plan with the same inputs goes on where this one stopped, another one ends it. Raises like the
        model.
        """
        if plan.seconds is None or not plan.inputs:
            self._step = None
            return self._model.run(plan) if plan.inputs else []
        if self._step is None or self._step[0] is not plan.inputs:
            self._step = plan.inputs, Resumable(partial(self._model.run, plan), self._model.device)
        computation = self._step[1]
        try:
            if not computation.run(plan.seconds):
                return None
        except BaseException:
            self._step = None
            raise
        self._step = None
        return computation.result
