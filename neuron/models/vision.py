"""The vision half of a model: what transformers' own class makes of images, and how it shows them.

The class encodes images by `get_image_features` and puts what comes of it in the placeholders' place itself,
with whatever else belongs there: so models that add features of the tower to several layers (DeepStack,
Meng et al. 2024), or route an image's tokens to other experts, need nothing of their own here.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from neuron.device.model import ImageEmbeddings
from neuron.models.image_features import EncodedImage
from neuron.models.image_input import Pixels
from neuron.step import PromptImage

_TYPES = ("mm_token_type_ids", "moe_mm_token_type_ids")  # arguments that tell images from text
_IMAGE_TYPE, _VIDEO_TYPE = 1, 2
_VARIADIC = {"args", "kwargs", "self"}


class VisionTower:
    """A `neuron.device.model.VisionEncoder`: the model's own tower and projector. For the device's thread."""

    def __init__(self, model: Any, image_token_id: int) -> None:
        base = model.base_model
        self._model = model
        self._base = base if hasattr(base, "get_image_features") else model
        self._image_token_id = image_token_id
        self._taken = inspect.signature(model.forward).parameters.keys()
        self._encoded = _names(self._base.get_image_features) or _names(self._base.forward)
        self._rope_index = getattr(self._base, "get_rope_index", None)
        self._located = _names(self._rope_index) if self._rope_index else frozenset()
        self.inputs = self._encoded | self._located

    def embed(self, pixels: Pixels) -> EncodedImage:
        return self.encode(pixels.tensors)

    @torch.inference_mode()
    def encode(self, tensors: Mapping[str, Tensor]) -> EncodedImage:
        """Return what the placeholders of one image show, for tensors on any device."""
        moved = {name: tensor.to(self._model.device) for name, tensor in tensors.items()}
        if "pixel_values_videos" in moved:
            videos, grid = moved["pixel_values_videos"], moved["video_grid_thw"]
            return EncodedImage.of(self._base.get_video_features(videos, grid, return_dict=True))
        taken = {name: tensor for name, tensor in moved.items() if name in self._encoded}
        return EncodedImage.of(self._base.get_image_features(**taken, return_dict=True))

    @torch.inference_mode()
    def positions(self, tokens: Sequence[int], images: Sequence[PromptImage]) -> Tensor | None:
        if self._rope_index is None:
            return None
        device = self._model.device
        shown = torch.zeros(len(tokens), dtype=torch.int64, device=device)
        for image in images:
            is_video = "video_grid_thw" in image.pixels.tensors
            shown[list(image.positions)] = _VIDEO_TYPE if is_video else _IMAGE_TYPE
        ids, types, is_added = self._apart(torch.tensor(tokens, device=device), shown, images)
        told: dict[str, Any] = {"input_ids": ids[None], "mm_token_type_ids": types[None]}
        told["attention_mask"] = torch.ones_like(ids[None])
        names = self._located - told.keys()
        tensors = [image.pixels.tensors for image in images]
        told |= {
            name: torch.cat(parts).to(device)
            for name in names
            if (parts := [found[name] for found in tensors if name in found])
        }
        found, _ = self._rope_index(**{name: told[name] for name in told if name in self._located})
        positions: Tensor = (found[:, 0] - is_added.cumsum(0))[:, ~is_added]
        return positions

    def _apart(
        self, tokens: Tensor, types: Tensor, images: Sequence[PromptImage]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return tokens and types with a token of text between images that have none, and which these are.

        Classes take placeholders that follow each other for one image.
        """
        cuts = [after.start for before, after in pairwise(images) if before.end == after.start]
        places = torch.arange(len(tokens), device=tokens.device)
        for cut in cuts:
            places[cut:] += 1
        is_added = torch.ones(len(tokens) + len(cuts), dtype=torch.bool, device=tokens.device)
        is_added[places] = False
        text = tokens.new_full(is_added.shape, int(self._image_token_id == 0))
        return (
            text.index_copy(0, places, tokens),
            torch.zeros_like(text).index_copy(0, places, types),
            is_added,
        )

    def step_inputs(self, tokens: Tensor, images: ImageEmbeddings) -> dict[str, Any]:
        """Return the arguments of the model's `forward` for a flat batch that shows images."""
        rows = torch.cat([part for part, _ in images])
        shown = [features for _, features in images if isinstance(features, EncodedImage)]
        told: dict[str, Any] = {}
        if "mm_encoder_outputs" in self._taken:
            tokens = tokens.index_fill(0, rows, self._image_token_id)  # frames of a video are shown alike
            # The class looks for placeholders itself: one that shows nothing shows its own embedding.
            places = (tokens == self._image_token_id).nonzero()[:, 0]
            if len(places) != len(rows):
                shown = [self._with_others(tokens, places, rows, shown)]
            told["mm_encoder_outputs"] = {"image": EncodedImage.joined(shown).output()}
            told["input_ids"] = tokens[None]
        else:
            embedded = self._embed(tokens)
            joined = EncodedImage.joined(shown).embeddings.to(embedded)
            told["inputs_embeds"] = embedded.index_copy(0, rows, joined)[None]
        types = torch.zeros_like(tokens).index_fill(0, rows, _IMAGE_TYPE)[None]
        return told | {name: types for name in _TYPES if name in self._taken}

    def _embed(self, tokens: Tensor) -> Tensor:
        embedded: Tensor = self._model.get_input_embeddings()(tokens)
        return embedded

    def _with_others(
        self, tokens: Tensor, places: Tensor, rows: Tensor, shown: Sequence[EncodedImage]
    ) -> EncodedImage:
        return EncodedImage.joined(shown).spread(
            torch.searchsorted(places, rows), self._embed(tokens[places])
        )


def _names(function: Any) -> frozenset[str]:
    """Return the names of the arguments that a method takes, without those that could have any name."""
    return frozenset(inspect.signature(function).parameters) - _VARIADIC
