"""What the chunks of a step show: embeddings in place of their images' placeholders.

An image is embedded when the first chunk with any of its placeholders runs. Where a chunk ends within it, the
slot keeps the embeddings for the chunks to come: of one image at most, however many the prompt shows. Pixels
are the request's and come with each chunk, so that nothing is held here for a request that left.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

import torch

from neuron.device.batch import Batch
from neuron.step import Chunk, Image, StepPlan

if TYPE_CHECKING:
    from neuron.device.model_runner import Eyes

Shown = list[tuple[torch.Tensor, torch.Tensor]]


class Images:
    def __init__(self, eyes: Eyes) -> None:
        self._eyes = eyes
        self._begun: dict[int, tuple[bytes, torch.Tensor]] = {}  # by slot: digest and embeddings

    def shown(self, plan: StepPlan, batch: Batch) -> Shown:
        """Places in the batch's flat row, (k,), and what is read there, (k, hidden)."""
        found: Shown = []
        made: dict[bytes, torch.Tensor] = {}  # an image may be in several chunks of a step
        for index, end in zip(batch.order, batch.ends, strict=True):
            chunk = plan.chunks[index]
            for image in chunk.images:
                first, last = (bisect_left(image.places, position) for position in (chunk.start, chunk.end))
                if first < last:
                    features = self._features(chunk, image, made)[first:last]
                    places = torch.tensor(image.places[first:last], device=features.device)
                    found.append((places + (end - chunk.end), features))
        return found

    def _features(self, chunk: Chunk, image: Image, made: dict[bytes, torch.Tensor]) -> torch.Tensor:
        digest, features = self._begun.pop(chunk.slot, (b"", None))
        if features is None or digest != image.digest:
            features = made.get(image.digest)
        if features is None:
            features = self._eyes.embed(image.pixels)
        if len(features) != len(image.places):
            raise ValueError(f"an image of {len(image.places)} placeholders has {len(features)} embeddings")
        made[image.digest] = features
        if chunk.end < image.end:
            self._begun[chunk.slot] = image.digest, features
        return features
