"""The vision half of a model: image processor and vision tower, and whether the two go together."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from neuron.models.checkpoint import model_broken
from neuron.models.image_input import Pixels
from neuron.models.image_processor import TransformersImageProcessor


class VisionTower:
    """A `neuron.device.model.VisionEncoder`: the model's own tower and projector. For the device's thread."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.inputs = frozenset(inspect.signature(model.get_image_features).parameters)

    def embed(self, pixels: Pixels) -> Tensor:
        return self.encode(pixels.tensors)

    def encode(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the embeddings of one image, (placeholders, hidden), for tensors on any device."""
        moved = {name: tensor.to(self._model.device) for name, tensor in tensors.items()}
        features = self._model.get_image_features(**moved, return_dict=True).pooler_output
        return torch.cat(list(features)).flatten(end_dim=-2)


def load_vision(model: Any, path: Path, max_pixels: int) -> tuple[TransformersImageProcessor, VisionTower]:
    """Return processor and tower of a loaded model. Raises ModelLoadError when they do not go together."""
    tower = VisionTower(model)
    processor = TransformersImageProcessor(
        path, model.config, inputs=tower.inputs, dtype=model.dtype, max_pixels=max_pixels
    )
    _check(processor, tower, path)
    return processor, tower


@torch.inference_mode()
def _check(processor: TransformersImageProcessor, tower: VisionTower, path: Path) -> None:
    """Process one image, so that files that do not go together fail the load and not a request."""
    try:
        text, tensors = processor.prepare(Image.effect_noise((64, 48), 64).convert("RGB"))
        num_embeddings = len(tower.encode(tensors))
    except Exception as error:
        raise model_broken(path, f"an image cannot be processed: {error!r}") from error
    num_placeholders = processor.count_placeholders(text)
    if num_embeddings != num_placeholders:
        cause = f"processor and vision tower differ: {num_placeholders} and {num_embeddings} tokens"
        raise model_broken(path, f"{cause} for the same image")
