"""Models that see: an image file becomes pixels, pixels become what the decoder reads in place of tokens.

The first half is transformers' processor of that model, on whatever thread; the second the model's own vision
tower and projector, on the thread that owns the device.
"""

from __future__ import annotations

import inspect
import io
import threading
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from PIL import Image as Files
from PIL import ImageOps, UnidentifiedImageError
from transformers import AutoProcessor

from neuron.models.checkpoint import broken

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
MAX_PIXELS = 64_000_000  # of a file as it is stored: what decoding it may cost
GALLERY_BYTES = 256 << 20  # pixels kept of images that were looked at, for the next turn
PIXEL_BYTES = 1 << 30  # of these and of all that requests hold: beyond it no more are read
_NESTED = {"idefics3"}  # whose processors take a list of images for each text


class UnreadableImageError(Exception):
    """Not an image, or not one that is taken; the message says why."""


class CrowdedError(Exception):
    """The images of the requests under way take all the room there is for images."""


class Pixels:
    """Arguments of the model's `get_image_features`, on the CPU."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.tensors = tensors
        self.num_bytes = sum(tensor.nbytes for tensor in tensors.values())


@dataclass(frozen=True, slots=True)
class Seen:
    """An image as a prompt shows it: `text` stands for it, with `num_tokens` placeholders in it."""

    digest: bytes
    text: str
    num_tokens: int


class Eyes:
    """Of one loaded model. `look` and `recall` may be called on any thread, `embed` by the device's alone."""

    def __init__(self, model: Any, path: Path) -> None:
        self.token_id: int = model.config.image_token_id
        self._model = model
        self._processor = _read_processor(path)
        self.marker: str = self._processor.image_token  # what a chat template writes for an image
        self._placeholder: str = self._processor.tokenizer.convert_ids_to_tokens(self.token_id)
        # What the processor's own call does with images, without a text around them.
        self._process = self._processor._process_images  # noqa: SLF001
        self._options = self._processor._merge_kwargs(return_tensors="pt")["images_kwargs"]  # noqa: SLF001
        self._is_nested = model.config.model_type in _NESTED
        self._wanted = set(inspect.signature(model.get_image_features).parameters)
        self._gallery: OrderedDict[bytes, tuple[Seen, Pixels]] = OrderedDict()
        self._live: WeakSet[Pixels] = WeakSet()
        self._lock = threading.Lock()
        self._try(path)

    def look(self, data: bytes) -> Seen:
        """Read an image file. Raises UnreadableImageError, CrowdedError."""
        digest = blake2b(data, digest_size=16).digest()
        if found := self._find(digest):
            return found[0]
        if sum(pixels.num_bytes for pixels in list(self._live)) > PIXEL_BYTES:
            raise CrowdedError
        text, pixels = self._prepare(_read(data))
        seen = Seen(digest, text, text.count(self._placeholder))
        self._keep(seen, pixels)
        return seen

    def recall(self, digest: bytes) -> Pixels | None:
        """Of an image that was looked at; None when that was long ago."""
        found = self._find(digest)
        return found[1] if found else None

    def embed(self, pixels: Pixels) -> torch.Tensor:
        """What the decoder reads at the placeholders, (tokens, hidden)."""
        device, dtype = self._model.device, self._model.dtype
        moved = {
            name: value.to(device, dtype) if value.is_floating_point() else value.to(device)
            for name, value in pixels.tensors.items()
        }
        features = self._model.get_image_features(**moved, return_dict=True).pooler_output
        return torch.cat(list(features)).flatten(end_dim=-2)

    def _prepare(self, image: Files.Image) -> tuple[str, Pixels]:
        """What stands for the image in a prompt, and what `embed` takes."""
        made, (text,) = self._process([[image]] if self._is_nested else [image], **self._options)
        return text, Pixels({name: value for name, value in made.items() if name in self._wanted})

    @torch.inference_mode()
    def _try(self, path: Path) -> None:
        """Look once, so that files that do not go together fail the load and no request. Raises LoadError."""
        try:
            text, pixels = self._prepare(Files.effect_noise((64, 48), 64).convert("RGB"))
            made = len(self.embed(pixels))
        except Exception as error:
            raise broken(path, f"an image cannot be looked at: {error!r}") from error
        if made != text.count(self._placeholder):
            cause = f"processor and vision tower differ: {text.count(self._placeholder)} and {made} tokens"
            raise broken(path, f"{cause} for the same image")

    def _find(self, digest: bytes) -> tuple[Seen, Pixels] | None:
        with self._lock:
            if digest in self._gallery:
                self._gallery.move_to_end(digest)
            return self._gallery.get(digest)

    def _keep(self, seen: Seen, pixels: Pixels) -> None:
        with self._lock:
            self._gallery[seen.digest] = seen, pixels
            self._live.add(pixels)
            while len(self._gallery) > 1 and self._gallery_bytes() > GALLERY_BYTES:
                self._gallery.popitem(last=False)

    def _gallery_bytes(self) -> int:
        return sum(pixels.num_bytes for _, pixels in self._gallery.values())


def _read_processor(path: Path) -> Any:
    try:
        processor = AutoProcessor.from_pretrained(str(path), backend="pil", local_files_only=True)
    except Exception as error:
        raise broken(path, f"its image processor cannot be read: {error}") from error
    if not hasattr(processor, "replace_image_token") or not hasattr(processor, "image_processor"):
        raise broken(path, f"has no processor for images, but {type(processor).__name__}")
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
