"""What prompts show: images of the requests on the device, until their placeholders have been run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from neuron.device.batch import Batch
from neuron.step import Chunk, Image, Joined, StepPlan

if TYPE_CHECKING:
    from neuron.device.runner import Eyes

Shown = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass(slots=True)
class _Slot:
    """A request whose prompt has images that are still to be read."""

    prompt: tuple[int, ...]
    images: list[Image]
    features: dict[int, torch.Tensor] = field(default_factory=dict)  # of images half read, by their start


class Images:
    """An image is embedded when the first of its placeholders runs, and forgotten after the last."""

    def __init__(self, eyes: Eyes) -> None:
        self._eyes = eyes
        self._slots: dict[int, _Slot] = {}

    def join(self, joined: Joined) -> None:
        self._slots.pop(joined.slot, None)
        if joined.images:
            self._slots[joined.slot] = _Slot(joined.prompt, list(joined.images))

    def shown(self, plan: StepPlan, batch: Batch) -> Shown:
        """Places in the batch's flat row, (k,), and what is read there, (k, hidden)."""
        found: Shown = []
        for index, end in zip(batch.order, batch.ends, strict=True) if self._slots else ():
            chunk = plan.chunks[index]
            if slot := self._slots.get(chunk.slot):
                first = end - len(chunk.tokens)
                for places, features in self._read(slot, chunk):
                    found.append((torch.tensor(places, device=features.device) + first, features))
                if not slot.images:
                    del self._slots[chunk.slot]
        return found

    def _read(self, slot: _Slot, chunk: Chunk) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Places in the chunk and their features; images that end in it are forgotten."""
        for image in tuple(slot.images):
            if places := self._placeholders(slot, image, chunk.start, chunk.end):
                skipped = len(self._placeholders(slot, image, 0, chunk.start))
                features = self._embedded(slot, image)[skipped : skipped + len(places)]
                yield [place - chunk.start for place in places], features
            if image.end <= chunk.end:
                slot.images.remove(image)
                slot.features.pop(image.start, None)

    def _placeholders(self, slot: _Slot, image: Image, start: int, end: int) -> list[int]:
        """Positions of the image's placeholders from `start` to `end`."""
        token = self._eyes.token_id
        inside = range(max(start, image.start), min(end, image.end))
        return [at for at in inside if slot.prompt[at] == token]

    def _embedded(self, slot: _Slot, image: Image) -> torch.Tensor:
        if image.start not in slot.features:
            slot.features[image.start] = self._eyes.embed(image.pixels)
        return slot.features[image.start]
