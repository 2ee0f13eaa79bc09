"""Pictures for tiny models without an image processor: tensors in the forms that classes take them.

A class says by the names of `get_image_features`' arguments which tensors it takes, and by its configuration
how large they are. The first form that runs is the model's.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from neuron.models.image_features import EncodedImage
from neuron.pipe import ImageToken

Tensors = dict[str, Tensor]
GRID = (4, 6)  # patches merged two by two, at most, in rows and columns
SIDE = 28  # pixels, where the configuration names none


class TinyProcessor:
    """An `ImageProcessor` whose pictures are of noise: of which, is said by a number in place of a file."""

    def __init__(self, model: Any, image_token_id: int) -> None:
        self.token = ImageToken("<image>", image_token_id, "<image>")
        self.video_token = None
        base = model.base_model if hasattr(model.base_model, "get_image_features") else model
        self._forms = dict(_forms(model.config, _arguments(base)))
        self.form, self.count = _fitting(base, self._forms)
        self.axis = (
            3 if self.form.startswith("a row") else 0
        )  # along which pixels of images follow each other

    def draw(self, seed: int) -> Tensors:
        """Return the picture with this number."""
        generator = torch.Generator().manual_seed(seed)
        shapes = self._forms[self.form]
        return {
            name: form if isinstance(form, Tensor) else torch.randn(form, generator=generator)
            for name, form in shapes.items()
        }

    # What loading asks of a processor; a text is the number of placeholders.

    def prepare(self, _: object) -> tuple[str, Tensors]:
        return str(self.count), self.draw(0)

    def count_placeholders(self, text: str) -> int:
        return int(text)

    def tokenize(self, text: str) -> list[int]:
        return [self.token.id] * int(text)

    def process(self, data: bytes) -> Any:
        raise NotImplementedError

    def keep(self, images: object) -> None:
        raise NotImplementedError

    def find(self, digest: bytes) -> Any:
        raise NotImplementedError


Form = Mapping[str, tuple[int, ...] | Tensor]  # by argument: the shape of noise, or what is always the same


def _arguments(base: Any) -> set[str]:
    names = set(inspect.signature(base.get_image_features).parameters) - {"args", "kwargs"}
    return names or set(inspect.signature(base.forward).parameters)


@torch.inference_mode()
def _fitting(base: Any, forms: Mapping[str, Form]) -> tuple[str, int]:
    """Return the first form that the class encodes, and how many placeholders it takes."""
    failures = []
    for name, form in forms.items():
        tensors = {key: part if isinstance(part, Tensor) else torch.randn(part) for key, part in form.items()}
        try:
            return name, len(EncodedImage.of(base.get_image_features(**tensors, return_dict=True)))
        except Exception as error:  # noqa: BLE001 - of another form
            failures.append(f"{name}: {type(error).__name__}: {error}")
    raise ValueError(f"no form of pictures fits: {'; '.join(failures)}")


def _forms(config: Any, names: set[str]) -> Iterator[tuple[str, Form]]:
    vision = getattr(config, "vision_config", None) or getattr(config, "vision_tower_config", config)
    size = _side(vision)
    patch = _number(vision, "patch_size") or 14
    rows, columns = GRID
    grid = next((name for name in ("image_grid_thw", "image_grid_hw") if name in names), None)
    if grid:
        frames = _number(vision, "temporal_patch_size") or 1
        shape = [[1, rows, columns]] if grid.endswith("thw") else [[rows, columns]]
        told: Form = {grid: torch.tensor(shape)}
        channels = _number(vision, "in_channels") or _number(vision, "num_channels") or 3
        for depth in dict.fromkeys((frames, 2, 1)):
            yield (
                f"flat patches of {depth}",
                told | {"pixel_values": (rows * columns, channels * depth * patch**2)},
            )
        if "image_merge_sizes" in names:
            told |= {"image_merge_sizes": torch.tensor([2])}
            yield "merged patches", told | {"pixel_values": (rows * columns, channels * patch**2)}
        yield "patches", told | {"pixel_values": (rows * columns, channels, patch, patch)}
    if "spatial_shapes" in names:
        count = rows * columns
        told = {
            "spatial_shapes": torch.tensor([GRID]),
            "pixel_attention_mask": torch.ones(1, count, dtype=torch.int64),
        }
        yield "flat patches of a shape", told | {"pixel_values": (1, count, 3 * patch**2)}
    if "image_position_ids" in names:
        kernel = _number(vision, "pooling_kernel_size") or 1
        high, wide = 2 * kernel, 3 * kernel
        places = torch.stack(torch.meshgrid(torch.arange(wide), torch.arange(high), indexing="xy"), -1)
        for side in (patch, patch * kernel):
            pixels: Form = {"pixel_values": (1, high * wide, 3 * side**2)}
            yield f"patches of {side} with places", {**pixels, "image_position_ids": places.view(1, -1, 2)}
    if "target_sizes" in names:
        for wide in (4 * rows * columns, rows * columns):
            sizes = torch.tensor([[8, 12]] if wide > rows * columns else [list(GRID)], dtype=torch.int32)
            yield (
                f"a row of {wide} patches",
                {"pixel_values": (1, 3, patch, wide * patch), "target_sizes": sizes},
            )
    if "image_token_pooling" in names:
        pooling = torch.arange(4).view(1, 4)
        grids = torch.tensor([[1, 1, 0, 0]])
        pixels = (1, (size // patch) ** 2, 3 * patch**2)
        yield "pooled patches", {"pixel_values": pixels, "image_token_pooling": pooling, "image_grids": grids}
    if "image_sizes" in names:
        sizes = torch.tensor([[2 * size, size]])
        yield "tiles of a size", {"pixel_values": (1, 3, 3, size, size), "image_sizes": sizes}
        sizes = torch.tensor([[2 * patch * rows, 2 * patch * columns]])
        high, wide = (int(part) for part in sizes[0])
        yield "any size", {"pixel_values": (1, 3, high, wide), "image_sizes": sizes}
    yield "one", {"pixel_values": (1, 3, size, size)}
    yield "tiles", {"pixel_values": (1, 2, 3, size, size)}
    if "pixel_mask" in names or "pixel_attention_mask" in names:
        mask = "pixel_mask" if "pixel_mask" in names else "pixel_attention_mask"
        seen = torch.ones(1, size, size, dtype=torch.bool)
        yield "one with a mask", {"pixel_values": (1, 3, size, size), mask: seen}
        yield "a tile with a mask", {"pixel_values": (1, 1, 3, size, size), mask: seen[None]}
        tiles = torch.ones(1, 2, dtype=torch.bool)
        yield "tiles of which all are real", {"pixel_values": (1, 2, 3, size, size), mask: tiles}
    yield "a list of patches", {"pixel_values": (1, rows * columns, 3 * patch**2)}


def _side(vision: Any) -> int:
    size = getattr(vision, "image_size", None)
    if isinstance(size, list | tuple) and size:
        size = size[0]
    return size if isinstance(size, int) else SIDE


def _number(config: Any, name: str) -> int | None:
    found = getattr(config, name, None)
    if isinstance(found, list | tuple) and found:
        found = found[-1]
    return found if isinstance(found, int) else None
