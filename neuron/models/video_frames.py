"""Videos as the Qwen-VL line sees them: frames by twos, each pair a patch in time.

transformers' processors for videos need torchvision. What they make of a frame is what that for images makes
of it, but for the size, of which `VideoSizes` has the rule, and for a patch's second frame. So frames go
through the processor for images here, and the text that stands for a video is the processor's own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers.video_utils import VideoMetadata

from neuron.models.image_input import UnreadableImageError
from neuron.models.pixel_cache import MAX_PIXEL_BYTES
from neuron.pipe import ImageToken

# The side of a token's square in pixels, by model type: those of each frame are bounded, or those of all.
_OF_ONE = {"qwen2_vl": 28, "qwen2_5_vl": 28}
_OF_ALL = {"qwen3_vl": 32, "qwen3_vl_moe": 32, "qwen3_5": 32, "qwen3_5_moe": 32}
_USUAL = {"shortest_edge": 128, "longest_edge": 768}  # tokens that are shown
_PIXEL_BYTES = 12  # of float32 in three colours
_FILES = (("video_preprocessor_config.json", None), ("processor_config.json", "video_processor"))


@dataclass(frozen=True, slots=True)
class VideoSizes:
    """How large the frames of a video are shown."""

    least: int  # pixels
    most: int
    unit: int  # of their sides, in pixels
    of_all: bool  # whether all frames of a video have so many together, or each

    def fit(self, width: int, height: int, count: int) -> tuple[int, int]:
        """Return width and height of each of `count` frames, of nearly the same shape."""
        count = count if self.of_all else 1
        columns, rows = (max(1, round(side / self.unit)) for side in (width, height))
        pixels = count * columns * rows * self.unit**2
        scale: float = 1.0
        cut: Callable[[float], int] = math.ceil
        if pixels > self.most:
            cut = math.floor
            scale = math.sqrt(self.most / (count * width * height))
        elif pixels < self.least:
            scale = math.sqrt(self.least / (count * width * height))
        if scale != 1.0:
            columns, rows = (max(1, cut(side * scale / self.unit)) for side in (width, height))
        return columns * self.unit, rows * self.unit


def read_sizes(path: Path, model_type: str, unit: int) -> VideoSizes | None:
    """Return the sizes that a directory's files say or that are usual; None for models of other kinds."""
    side = _OF_ONE.get(model_type) or _OF_ALL.get(model_type)
    if side is None:
        return None
    told = _told_size(path)
    least, most = (int(told.get(key, count * side**2)) for key, count in _USUAL.items())
    return VideoSizes(least, most, unit, model_type in _OF_ALL)


def _told_size(path: Path) -> dict[str, Any]:
    for name, part in _FILES:
        with suppress(OSError, ValueError, AttributeError):
            content = json.loads((path / name).read_bytes())
            content = content.get(part) if part else content
            pixels = {"shortest_edge": content.get("min_pixels"), "longest_edge": content.get("max_pixels")}
            size = {key: value for key, value in pixels.items() if value} or content.get("size")
            if isinstance(size, dict):
                return size
    return {}


class VideoFrames:
    """Shows videos to one model."""

    def __init__(self, processor: Any, sizes: VideoSizes) -> None:
        self._processor = processor
        self._images = processor.image_processor
        self._sizes = sizes
        self._depth: int = self._images.temporal_patch_size  # frames of a patch
        if getattr(processor, "video_processor", None) is None:  # of which the text takes two sizes
            processor.video_processor = SimpleNamespace(
                merge_size=self._images.merge_size, temporal_patch_size=self._depth
            )
        placeholder: str = processor.tokenizer.convert_ids_to_tokens(processor.video_token_id)
        self.token = ImageToken(processor.video_token, processor.video_token_id, placeholder)

    def sized(self, frames: Iterable[Image.Image], count: int) -> Iterator[Image.Image]:
        """Yield `count` frames as they are shown, all as large as the first.

        Raises UnreadableImageError if all of them take more memory than images of one request may.
        """
        size: tuple[int, int] | None = None
        for frame in frames:
            size = size or self._sizes.fit(*frame.size, count)
            if (pixels := count * math.prod(size)) * _PIXEL_BYTES > MAX_PIXEL_BYTES:
                raise UnreadableImageError(
                    f"{count} frames of it are shown with {pixels:,} pixels; send fewer"
                )
            yield frame.resize(size, Image.Resampling.BICUBIC)

    def prepare(self, frames: Sequence[Image.Image], fps: float) -> tuple[str, dict[str, Tensor]]:
        """Return the text that stands for `sized` frames in a prompt, and the vision encoder's inputs."""
        patches, grid = self._patches(frames)
        known = VideoMetadata(len(frames), fps=fps, frames_indices=list(range(len(frames))))
        text: str = self._processor.replace_video_token(
            {"video_grid_thw": grid, "video_metadata": [known]}, video_idx=0
        )
        return text, {
            "pixel_values_videos": patches,
            "video_grid_thw": grid,
            "second_per_grid_ts": torch.tensor([self._depth / fps], dtype=torch.float64),
        }

    def _patches(self, frames: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
        """Return the patches of all frames, (patches, values), and how many there are in time and space."""
        paired_up = [*frames, *[frames[-1]] * (-len(frames) % self._depth)]
        shown = self._images(images=paired_up, do_resize=False, return_tensors="pt")
        _, rows, columns = shown["image_grid_thw"][0].tolist()
        # An image fills the depth of its patches: (frames, patches, channels, depth, pixels).
        flat = shown["pixel_values"].view(len(paired_up), rows * columns, 3, self._depth, -1)[:, :, :, 0]
        paired = flat.view(-1, self._depth, *flat.shape[1:]).permute(0, 2, 3, 1, 4)
        grid = torch.tensor([[len(paired), rows, columns]])
        return paired.reshape(len(paired) * rows * columns, -1), grid


def find_video_frames(path: Path, config: Any, processor: Any) -> VideoFrames | None:
    """Return what shows videos to a model; None where its kind or its chat template has no place for them."""
    if "video" not in str(getattr(processor, "chat_template", None)):
        return None
    images = processor.image_processor
    unit = getattr(images, "patch_size", 0) * getattr(images, "merge_size", 0)
    sizes = read_sizes(path, config.model_type, unit)
    is_known = isinstance(getattr(processor, "video_token_id", None), int)
    return VideoFrames(processor, sizes) if sizes and is_known else None
