"""The embeddings of a step's images, and the rows of the flat batch where they replace placeholders.

Images are encoded before the first chunk that shows one of their placeholders, in as many steps as that
takes. Their embeddings are kept for the slot until its last chunk with the image has run. Pixels come with
every plan, so none are held here for a request that has ended.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections import defaultdict
from functools import partial

import torch
from torch import Tensor

from neuron.device.batch import Batch
from neuron.device.model import ImageEmbeddings, ImageFeatures, VisionEncoder
from neuron.device.resumable import Resumable
from neuron.step import Encoding, EncodingResult, Joined, PromptImage, StepPlan

log = logging.getLogger("neuron.device")


class ImageEmbedder:
    """Embeds the images of one model's steps. For the device's thread."""

    def __init__(self, encoder: VisionEncoder, device: torch.device) -> None:
        self._encoder = encoder
        self._device = device
        # By slot and where the image starts: its digest and its features.
        self._ready: defaultdict[int, dict[int, tuple[bytes, ImageFeatures]]] = defaultdict(dict)
        self._pass: tuple[bytes, Resumable[ImageFeatures]] | None = None  # of an image that has begun

    def join(self, joined: Joined) -> None:
        """Forget what was kept for the slot's request before."""
        self._ready.pop(joined.slot, None)

    def encode(self, encoding: Encoding | None) -> EncodingResult | None:
        """Go on with an encoding for as long as it says; None ends the one before."""
        if encoding is None:
            self._pass = None
            return None
        started = time.perf_counter()
        ready = self._ready[encoding.slot]
        for count, image in enumerate(encoding.images):
            if image.start in ready:
                continue
            left = encoding.seconds - (time.perf_counter() - started)
            try:
                features = self._known(image) or self._encode(image, left)
            except (torch.AcceleratorError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                log.exception("an image could not be encoded")
                failure = f"an image cannot be encoded: {type(error).__name__}: {error}"
                return EncodingResult(count, time.perf_counter() - started, failure)
            if features is None:
                return EncodingResult(count, time.perf_counter() - started)
            ready[image.start] = image.digest, features
        return EncodingResult(len(encoding.images), time.perf_counter() - started)

    def _known(self, image: PromptImage) -> ImageFeatures | None:
        """Return what another image of a step to come shows, if that is the same."""
        kept = (known for ready in self._ready.values() for known in ready.values())
        return next((features for digest, features in kept if digest == image.digest), None)

    def _encode(self, image: PromptImage, seconds: float) -> ImageFeatures | None:
        """Return the features of an image if it is done within about `seconds`."""
        if self._pass is None or self._pass[0] != image.digest:
            work = partial(self._encoder.embed, image.pixels)
            self._pass = image.digest, Resumable(work, self._device)
        computation = self._pass[1]
        try:
            if not computation.run(seconds):
                return None
        except BaseException:
            self._pass = None
            raise
        self._pass = None
        features = computation.result
        if len(features) != (count := len(image.positions)):
            raise ValueError(f"an image of {count} placeholders has {len(features)} embeddings")
        return features

    def embed(self, plan: StepPlan, batch: Batch) -> ImageEmbeddings:
        """Return the rows of `batch` that are placeholders, and their embeddings, which are kept no longer
        than that."""
        found: list[tuple[Tensor, ImageFeatures]] = []
        for index, end in zip(batch.order, batch.ends, strict=True):
            chunk = plan.chunks[index]
            for image in chunk.images:
                first = bisect_left(image.positions, chunk.start)
                last = bisect_left(image.positions, chunk.end)
                ready = self._ready[chunk.slot]
                _, features = ready[image.start] if image.end > chunk.end else ready.pop(image.start)
                if first < last:
                    positions = torch.tensor(image.positions[first:last], device=batch.tokens.device)
                    found.append((positions + (end - chunk.end), features[first:last]))
        return found
