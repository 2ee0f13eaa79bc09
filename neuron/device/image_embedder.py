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
from neuron.step import Chunk, PromptImage, StepPlan

if TYPE_CHECKING:
    from neuron.device.model_runner import VisionEncoder

ImageEmbeddings = list[tuple[torch.Tensor, torch.Tensor]]


class ImageEmbedder:
    def __init__(self, vision_encoder: VisionEncoder) -> None:
        self._vision_encoder = vision_encoder
        self._partial: dict[int, tuple[bytes, torch.Tensor]] = {}  # by slot: digest and embeddings

    def embed(self, plan: StepPlan, batch: Batch) -> ImageEmbeddings:
        """Places in the batch's flat row, (k,), and what is read there, (k, hidden)."""
        found: ImageEmbeddings = []
        made: dict[bytes, torch.Tensor] = {}  # an image may be in several chunks of a step
        for index, end in zip(batch.order, batch.ends, strict=True):
            chunk = plan.chunks[index]
            for image in chunk.images:
                first, last = (
                    bisect_left(image.positions, position) for position in (chunk.start, chunk.end)
                )
                if first < last:
                    features = self._features(chunk, image, made)[first:last]
                    positions = torch.tensor(image.positions[first:last], device=features.device)
                    found.append((positions + (end - chunk.end), features))
        return found

    def _features(self, chunk: Chunk, image: PromptImage, made: dict[bytes, torch.Tensor]) -> torch.Tensor:
        digest, features = self._partial.pop(chunk.slot, (b"", None))
        if features is None or digest != image.digest:
            features = made.get(image.digest)
        if features is None:
            features = self._vision_encoder.embed(image.pixels)
        if len(features) != len(image.positions):
            raise ValueError(
                f"an image of {len(image.positions)} placeholders has {len(features)} embeddings"
            )
        made[image.digest] = features
        if chunk.end < image.end:
            self._partial[chunk.slot] = image.digest, features
        return features
