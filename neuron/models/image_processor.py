"""Image files into pixels, by the processor that transformers has for a model."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from neuron.models import private
from neuron.models.checkpoint import CONFIG, PROCESSOR_FILES, ModelLoadError, model_broken
from neuron.models.image_input import Pixels, UnreadableImageError
from neuron.models.pixel_cache import PixelCache
from neuron.models.video_frames import find_video_frames
from neuron.pipe import ImagePlaceholder, ImageToken, VideoFile

_CAST = {"pixel_values_videos"}  # to the encoder's type, of a video's tensors
FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_NESTED = {
    "granite_docling",
    "idefics2",
    "idefics3",
    "smolvlm",
}  # model types whose processors take a list of images for each text


class TransformersImageProcessor:
    """An `ImageProcessor`. Holds nothing of the model, so that unloading it frees the model at once."""

    def __init__(
        self, path: Path, config: Any, *, inputs: AbstractSet[str], dtype: torch.dtype, max_pixels: int
    ) -> None:
        """`inputs` are the tensors that the model's vision encoder takes, in `dtype` if floating point.

        A file of more than `max_pixels` is not decoded: that takes some seven bytes for each.

        Raises ModelLoadError when `path` has no processor for images.
        """
        self._processor = _read_processor(path)
        number = image_token_id(config, self._processor)
        placeholder: str = self._processor.tokenizer.convert_ids_to_tokens(number)
        self.token = ImageToken(self._processor.image_token, number, placeholder)
        self._options = private.image_options(self._processor)
        self._is_nested = config.model_type in _NESTED
        self._inputs = inputs
        self._dtype = dtype
        self._max_pixels = max_pixels
        self._videos = find_video_frames(path, config, self._processor)
        self._cache = PixelCache()

    @property
    def video_token(self) -> ImageToken | None:
        return self._videos.token if self._videos else None

    def process(self, data: bytes | VideoFile) -> Pixels:
        digest = _digest(data)
        if found := self._cache.find(digest):
            return found
        self._cache.make_room()
        if isinstance(data, VideoFile):
            pixels = self._process_video(data, digest)
        else:
            text, tensors = self.prepare(_read_image(data, self._max_pixels))
            pixels = Pixels(ImagePlaceholder(digest, text, self.count_placeholders(text)), tensors)
        self._cache.add(pixels)
        return pixels

    def _process_video(self, video: VideoFile, digest: bytes) -> Pixels:
        assert self._videos
        frames = self._videos.sized(_read_frames(video, self._max_pixels), len(video.frames))
        text, tensors = self._videos.prepare([*frames], video.fps)
        cast = {name: self._cast(tensor) if name in _CAST else tensor for name, tensor in tensors.items()}
        return Pixels(ImagePlaceholder(digest, text, text.count(self._videos.token.placeholder)), cast)

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
        return text.count(self.token.placeholder)

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of a text that stands for an image."""
        tokens: list[int] = self._processor.tokenizer.encode(text, add_special_tokens=False)
        return tokens

    def _cast(self, value: Tensor) -> Tensor:
        return value.to(self._dtype) if value.is_floating_point() else value


def image_token_id(config: Any, processor: Any) -> int:
    """Return the id of a placeholder. Raises ModelLoadError when neither of the two names it."""
    for holder in (config, processor):
        for name in ("image_token_id", "image_token_index"):
            if isinstance(found := getattr(holder, name, None), int):
                return found
    raise ModelLoadError("model_unsupported", "its configuration has no image_token_id")


def _read_processor(path: Path) -> Any:
    for file in (path / name for name in PROCESSOR_FILES):
        try:
            json.loads(file.read_bytes()) if file.is_file() else None
        except (OSError, ValueError) as error:
            raise model_broken(file, f"its image processor cannot be read: {error}") from error
    try:
        processor = AutoProcessor.from_pretrained(str(path), backend="pil", local_files_only=True)
    except Exception as error:
        if not isinstance(error, ImportError) and "video processor class" not in str(error):
            cause = f"{path}: its image processor cannot be read: {error}"
            raise ModelLoadError("model_unsupported", cause) from error
        processor = _without_video(path, error)
    if not hasattr(processor, "replace_image_token") or not hasattr(processor, "image_processor"):
        cause = f"transformers has no processor for its images but {type(processor).__name__}"
        raise ModelLoadError("model_unsupported", f"{path}: {cause}")
    return processor


def _without_video(path: Path, cause: Exception) -> Any:
    """Return the processor of a directory that has another for videos, which needs torchvision.

    Raises ModelLoadError for a processor that needs more than is installed for images, too.
    """
    config = json.loads((path / CONFIG).read_bytes())
    cls = getattr(transformers, PROCESSOR_MAPPING_NAMES.get(config.get("model_type"), ""), None)
    if cls is None:
        raise _needing(path, cause)
    try:
        lenient = type(cls.__name__, (cls,), {"check_argument_for_proper_class": lambda *_: None})
        settings, options = cls.get_processor_dict(str(path), local_files_only=True)
        parts: dict[str, Any] = {
            "image_processor": AutoImageProcessor.from_pretrained(
                str(path), backend="pil", local_files_only=True
            ),
            "tokenizer": AutoTokenizer.from_pretrained(str(path), local_files_only=True),
        }
        arguments = [parts.get(name) for name in cls.get_attributes()]
        options.pop("local_files_only", None)
        return lenient.from_args_and_dict(arguments, settings, **options)  # type: ignore[attr-defined]
    except ImportError as error:
        raise _needing(path, error) from error
    except Exception as error:
        reason = f"{path}: its image processor cannot be read without that for videos: {error}"
        raise ModelLoadError("model_unsupported", reason) from error


def _needing(path: Path, error: Exception) -> ModelLoadError:
    """Return the error for a processor that needs a package, and how to get it."""
    lines = str(error).strip().splitlines() or [""]
    cause, cure = lines[0], "install it"
    if "torchvision" in str(error).lower():
        cause, cure = "it needs torchvision", "install the extra `vision`, of the version that fits torch"
    message = f"{path}: its image processor cannot be read: {cause}; {cure}"
    return ModelLoadError("model_unsupported", message)


def _digest(data: bytes | VideoFile) -> bytes:
    if isinstance(data, bytes):
        return blake2b(data, digest_size=16).digest()
    whole = blake2b(repr(data.fps).encode(), digest_size=16)
    for frame in data.frames:
        whole.update(blake2b(frame, digest_size=16).digest())
    return whole.digest()


def _read_frames(video: VideoFile, max_pixels: int) -> Iterator[Image.Image]:
    """Yield the frames of a video. Raises UnreadableImageError."""
    for number, frame in enumerate(video.frames, 1):
        try:
            image = _read_image(frame, max_pixels)
        except UnreadableImageError as error:
            raise UnreadableImageError(f"frame {number}: {error}") from error
        yield image


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
