"""The positions by which a model rotates queries and keys, where an image's tokens have rows and columns.

Of such a model (M-RoPE, Wang et al. 2024) a token has several positions: frame, row and column. An image
takes fewer of them than it has tokens, so what follows it is shifted. Where a token lies in the cache is
another matter: that is its place in the text.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neuron.device.batch import Batch
from neuron.device.model import VisionEncoder
from neuron.step import Chunk, Joined, StepPlan


class ImagePositions:
    """The positions of each slot's tokens. For the device's thread."""

    def __init__(self, encoder: VisionEncoder, num_slots: int, device: torch.device) -> None:
        self._encoder = encoder
        self._prompts: dict[int, Tensor] = {}  # of slots whose prompts show images: (axes, prompt)
        # How far each slot's answer is from its places in the text.
        self._shifts = [0] * num_slots
        self._device = device

    def join(self, joined: Joined) -> None:
        """Learn the positions of a request's prompt."""
        self._prompts.pop(joined.slot, None)
        found = self._encoder.positions(joined.prompt, joined.images) if joined.images else None
        if found is not None:
            self._prompts[joined.slot] = found
            # The times of a video may go beyond what follows it.
            self._shifts[joined.slot] = int(found[:, -1].max()) + 1 - len(joined.prompt)

    def shifts_any(self, plan: StepPlan) -> bool:
        """Return whether some tokens of a step have other positions than their places."""
        return any(chunk.slot in self._prompts for chunk in plan.chunks)

    def of(self, plan: StepPlan, batch: Batch) -> Tensor:
        """Return the positions of a step's tokens: (n,), or (axes, n) where one of them has several."""
        chunks = [plan.chunks[index] for index in batch.order]
        axes = next((len(self._prompts[c.slot]) for c in chunks if c.slot in self._prompts), 0)
        if not axes:
            return batch.positions
        return torch.cat([self._chunk(chunk, axes) for chunk in chunks], dim=1)

    def _chunk(self, chunk: Chunk, axes: int) -> Tensor:
        prompt = self._prompts.get(chunk.slot)
        places = torch.arange(chunk.start, chunk.end, device=self._device)
        if prompt is None:
            return places.expand(axes, -1)
        end = prompt.shape[1]
        answer = (places[max(0, end - chunk.start) :] + self._shifts[chunk.slot]).expand(axes, -1)
        return torch.cat([prompt[:, chunk.start : chunk.end], answer], dim=1)
