"""The embeddings of a step's images, and the rows of the flat batch where they replace placeholders.

An image is embedded when the first chunk with one of its placeholders runs. If the chunk ends inside the
image, the slot keeps the embeddings for the chunks that follow: those of one image at most, however many the
prompt has. Pixels come with every chunk, so none are held here for a request that has ended.
"""

from __future__ import annotations

from bisect import bisect_left

import torch
from torch import Tensor

from neuron.device.batch import Batch
from neuron.device.model import ImageEmbeddings, VisionEncoder
from neuron.step import Chunk, PromptImage, StepPlan


class ImageEmbedder:
    """Embeds the images of one model's steps. For the device's thread."""

    def __init__(self, encoder: VisionEncoder) -> None:
        self._encoder = encoder
        self._partial: dict[int, tuple[bytes, Tensor]] = {}  # by slot: digest and embeddings of a begun image

    def embed(self, plan: StepPlan, batch: Batch) -> ImageEmbeddings:
        """Return the rows of `batch` that are placeholders, and their embeddings."""
        found: list[tuple[Tensor, Tensor]] = []
        made: dict[bytes, Tensor] = {}  # by digest: several chunks of a step may have the same image
        for index, end in zip(batch.order, batch.ends, strict=True):
            chunk = plan.chunks[index]
            for image in chunk.images:
                first = bisect_left(image.positions, chunk.start)
                last = bisect_left(image.positions, chunk.end)
                if first < last:
                    embeddings = self._embeddings(chunk, image, made)[first:last]
                    positions = torch.tensor(image.positions[first:last], device=embeddings.device)
                    found.append((positions + (end - chunk.end), embeddings))
        return found

    def _embeddings(self, chunk: Chunk, image: PromptImage, made: dict[bytes, Tensor]) -> Tensor:
        digest, embeddings = self._partial.pop(chunk.slot, (b"", None))
        if embeddings is None or digest != image.digest:
            embeddings = made.get(image.digest)
        if embeddings is None:
            embeddings = self._encoder.embed(image.pixels)
        count = len(image.positions)
        if len(embeddings) != count:
            raise ValueError(f"an image of {count} placeholders has {len(embeddings)} embeddings")
        made[image.digest] = embeddings
        if chunk.end < image.end:
            self._partial[chunk.slot] = image.digest, embeddings
        return embeddings
