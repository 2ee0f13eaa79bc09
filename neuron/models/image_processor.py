"""Models that see: an image file becomes pixels, pixels become what the decoder reads in place of tokens.

The first half is transformers' processor of that model, on whatever thread; the second the model's own vision
tower and projector, on the thread that owns the device.
"""

from __future__ import annotations

import inspect
import io
import warnings
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from PIL import Image as Files
from PIL import ImageOps, UnidentifiedImageError
from transformers import AutoProcessor

from neuron.models.checkpoint import model_broken
from neuron.models.pixel_cache import ImagePlaceholder, PixelCache, Pixels

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
MAX_PIXELS = 64_000_000  # of a file as it is stored: what decoding it may cost
_NESTED = {"idefics3"}  # whose processors take a list of images for each text


class UnreadableImageError(Exception):
    """Not an image, or not one that is taken; the message says why."""


class ImageProcessor:
    """Of one loaded model. For any thread, but `embed`, which is the device's."""

    def __init__(self, model: Any, path: Path) -> None:
        self.image_token_id: int = model.config.image_token_id
        self._model = model
        self._processor = _read_processor(path)
        self.image_token: str = self._processor.image_token  # what a chat template writes for an image
        self._placeholder: str = self._processor.tokenizer.convert_ids_to_tokens(self.image_token_id)
        # What the processor's own call does with images, without a text around them.
        self._process = self._processor._process_images  # noqa: SLF001
        self._options = self._processor._merge_kwargs(return_tensors="pt")["images_kwargs"]  # noqa: SLF001
        self._is_nested = model.config.model_type in _NESTED
        self._wanted = set(inspect.signature(model.get_image_features).parameters)
        self._gallery = PixelCache()
        self._try(path)

    def process(self, data: bytes) -> Pixels:
        """Read an image file; `keep` what is to be found. Raises UnreadableImageError, CrowdedError."""
        digest = blake2b(data, digest_size=16).digest()
        if found := self._gallery.find(digest):
            return found
        self._gallery.make_room()
        text, tensors = self._prepare(_read(data))
        pixels = Pixels(ImagePlaceholder(digest, text, text.count(self._placeholder)), tensors)
        self._gallery.add(pixels)
        return pixels

    def keep(self, shown: Sequence[Pixels]) -> None:
        """Have the images of one request at hand when it comes, and for a while."""
        self._gallery.keep(shown)

    def find(self, digest: bytes) -> Pixels | None:
        """Of an image that was looked at; None when that was long ago."""
        return self._gallery.find(digest)

    def embed(self, pixels: Pixels) -> torch.Tensor:
        """What the decoder reads at the placeholders, (tokens, hidden)."""
        return self._embed(pixels.tensors)

    def _embed(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        moved = {name: value.to(self._model.device) for name, value in tensors.items()}
        features = self._model.get_image_features(**moved, return_dict=True).pooler_output
        return torch.cat(list(features)).flatten(end_dim=-2)

    def _prepare(self, image: Files.Image) -> tuple[str, dict[str, torch.Tensor]]:
        """What stands for the image in a prompt, and what the tower takes."""
        made, (text,) = self._process([[image]] if self._is_nested else [image], **self._options)
        return text, {name: self._typed(made[name]) for name in made if name in self._wanted}

    def _typed(self, value: torch.Tensor) -> torch.Tensor:
        return value.to(self._model.dtype) if value.is_floating_point() else value

    @torch.inference_mode()
    def _try(self, path: Path) -> None:
        """Look once, so that files that do not go together fail the load and no request. Raises LoadError."""
        try:
            text, tensors = self._prepare(Files.effect_noise((64, 48), 64).convert("RGB"))
            made = len(self._embed(tensors))
        except Exception as error:
            raise model_broken(path, f"an image cannot be looked at: {error!r}") from error
        if made != text.count(self._placeholder):
            cause = f"processor and vision tower differ: {text.count(self._placeholder)} and {made} tokens"
            raise model_broken(path, f"{cause} for the same image")


def _read_processor(path: Path) -> Any:
    try:
        processor = AutoProcessor.from_pretrained(str(path), backend="pil", local_files_only=True)
    except Exception as error:
        raise model_broken(path, f"its image processor cannot be read: {error}") from error
    if not hasattr(processor, "replace_image_token") or not hasattr(processor, "image_processor"):
        raise model_broken(path, f"has no processor for images, but {type(processor).__name__}")
    return processor


def _read(data: bytes) -> Files.Image:
    """The image, upright and in RGB."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the library's own bound, which is another
            image = Files.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                size = f"{image.width} × {image.height}"
                raise UnreadableImageError(f"it has {size} pixels; {MAX_PIXELS:,} are allowed")
            return ImageOps.exif_transpose(image).convert("RGB")
    except UnidentifiedImageError:
        raise UnreadableImageError(f"it is none of {', '.join(FORMATS)}") from None
    except (OSError, ValueError, SyntaxError, Files.DecompressionBombError) as error:
        raise UnreadableImageError(f"it is damaged: {error}") from error
