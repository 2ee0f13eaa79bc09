"""Image files into pixels, by the processor that transformers has for a model."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from transformers import AutoProcessor

from neuron.models import private
from neuron.models.checkpoint import model_broken
from neuron.models.image_input import Pixels, UnreadableImageError
from neuron.models.pixel_cache import PixelCache
from neuron.pipe import ImagePlaceholder

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_NESTED = {"idefics3"}  # model types whose processors take a list of images for each text


class TransformersImageProcessor:
    """An `ImageProcessor`. Holds nothing of the model, so that unloading it frees the model at once."""

    def __init__(
        self, path: Path, config: Any, *, inputs: AbstractSet[str], dtype: torch.dtype, max_pixels: int
    ) -> None:
        """`inputs` are the tensors that the model's vision encoder takes, in `dtype` if floating point.

        A file of more than `max_pixels` is not decoded: that takes some seven bytes for each.

        Raises ModelLoadError when `path` has no processor for images.
        """
        self.image_token_id: int = config.image_token_id
        self._processor = _read_processor(path)
        self.image_token: str = self._processor.image_token
        self._placeholder: str = self._processor.tokenizer.convert_ids_to_tokens(self.image_token_id)
        self._options = private.image_options(self._processor)
        self._is_nested = config.model_type in _NESTED
        self._inputs = inputs
        self._dtype = dtype
        self._max_pixels = max_pixels
        self._cache = PixelCache()

    def process(self, data: bytes) -> Pixels:
        digest = blake2b(data, digest_size=16).digest()
        if found := self._cache.find(digest):
            return found
        self._cache.make_room()
        text, tensors = self.prepare(_read_image(data, self._max_pixels))
        pixels = Pixels(ImagePlaceholder(digest, text, self.count_placeholders(text)), tensors)
        self._cache.add(pixels)
        return pixels

    def keep(self, images: Sequence[Pixels]) -> None:
        self._cache.keep(images)

    def find(self, digest: bytes) -> Pixels | None:
        return self._cache.find(digest)

    def prepare(self, image: Image.Image) -> tuple[str, dict[str, Tensor]]:
        """Return the text that stands for an image in a prompt, and the vision encoder's inputs."""
        images: list[Any] = [[image]] if self._is_nested else [image]
        tensors, (text,) = private.process_images(self._processor, images, self._options)
        return text, {name: self._cast(tensors[name]) for name in tensors if name in self._inputs}

    def count_placeholders(self, text: str) -> int:
        """Return the number of placeholder tokens in a text that stands for an image."""
        return text.count(self._placeholder)

    def _cast(self, value: Tensor) -> Tensor:
        return value.to(self._dtype) if value.is_floating_point() else value


def _read_processor(path: Path) -> Any:
    try:
        processor = AutoProcessor.from_pretrained(str(path), backend="pil", local_files_only=True)
    except Exception as error:
        raise model_broken(path, f"its image processor cannot be read: {error}") from error
    if not hasattr(processor, "replace_image_token") or not hasattr(processor, "image_processor"):
        raise model_broken(path, f"has no processor for images but {type(processor).__name__}")
    return processor


def _read_image(data: bytes, max_pixels: int) -> Image.Image:
    """Return the image of a file, upright and in RGB. Raises UnreadableImageError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the library's own limit, which is another one
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > max_pixels:
                size = f"{image.width} × {image.height}"
                raise UnreadableImageError(f"it has {size} pixels; it may have {max_pixels:,}")
            return ImageOps.exif_transpose(image).convert("RGB")
    except UnidentifiedImageError:
        raise UnreadableImageError(f"it is none of {', '.join(FORMATS)}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(f"it is damaged: {error}") from error
