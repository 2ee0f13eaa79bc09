"""The seam for images: from a file in a request to the tensors that a model's vision encoder takes.

The worker's image thread and the device's loop know this module only. It imports no image library and none of
transformers' processors, which take a second; `image_processor` does, once a vision model is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from neuron.pipe import ImagePlaceholder, ImageToken, VideoFile


class UnreadableImageError(Exception):
    """The file is no image, or none that is accepted; the message says why."""


class PixelCacheFullError(Exception):
    """The images of requests in progress take all the memory there is for images."""


class Pixels:
    """One image as arguments of the model's `get_image_features`, on the CPU."""

    def __init__(self, placeholder: ImagePlaceholder, tensors: Mapping[str, Tensor]) -> None:
        self.placeholder = placeholder
        self.tensors = tensors
        self.num_bytes = sum(tensor.nbytes for tensor in tensors.values())


class ImageProcessor(Protocol):
    """Turns image files into pixels for one model. For any thread."""

    token: ImageToken

    @property
    def video_token(self) -> ImageToken | None:
        """How prompts show videos; None where they show images alone."""
        ...

    def process(self, data: bytes | VideoFile) -> Pixels:
        """Return the pixels of an image file or a video; follow with `keep`.

        Raises UnreadableImageError, and PixelCacheFullError while requests hold too many images.
        """

    def keep(self, images: Sequence[Pixels]) -> None:
        """Keep one request's images for the request itself and for the next turn of its conversation."""

    def find(self, digest: bytes) -> Pixels | None:
        """Return the pixels of an image processed before, or None when they are gone."""
