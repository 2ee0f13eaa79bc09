"""How a loaded model is given sight, and the proof that it sees what transformers lets it see.

A prompt with an image runs through transformers' class as it is, and piece by piece through our decoder: the
logits must be the same. So no table says which classes may see, and one that sees in a way of its own runs
without images.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from neuron.models.attention_masks import UnsupportedAttentionError
from neuron.models.checkpoint import Checkpoint, ModelLoadError, model_broken
from neuron.models.image_input import ImageProcessor, Pixels
from neuron.models.image_processor import TransformersImageProcessor
from neuron.models.probe import Probe, differs, ordinary_tokens, read_images_alike, read_pieces
from neuron.models.vision import VisionTower
from neuron.models.weights import LoadOptions
from neuron.pipe import ImagePlaceholder
from neuron.step import PromptImage, PromptRule

_SIZE = (64, 48)  # pixels of the image of the proof


class PreparingProcessor(ImageProcessor, Protocol):
    """An image processor that also tells how the proof's image is shown."""

    def prepare(self, image: Image.Image) -> tuple[str, dict[str, Tensor]]:
        """Return the text that stands for an image in a prompt, and the vision encoder's inputs."""

    def count_placeholders(self, text: str) -> int:
        """Return the number of placeholder tokens in a text that stands for an image."""

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of a text that stands for an image."""


@dataclass(frozen=True, slots=True)
class Sight:
    """A model's processor and tower, and a prompt with an image to prove them by."""

    processor: PreparingProcessor
    tower: VisionTower
    tokens: tuple[int, ...]
    image: PromptImage
    logits: Mapping[bool, Tensor]  # transformers' own after the prompt, by whether it is told to be one

    def probed(self, model: Any, probe: Probe) -> Probe:
        """Return what the layers ask for where a prompt shows images. Raises UnsupportedAttentionError."""
        return probe if probe.prompt_rule else read_images_alike(model, probe, self.processor.token.id)

    def check(self, decoder: Any, probe: Probe) -> None:
        """Raise UnsupportedAttentionError unless the decoder comes to the logits of transformers."""
        whole = probe.prompt_rule is PromptRule.WHOLE
        middle = (self.image.start + self.image.end) // 2
        cuts = () if whole or decoder.whole_images else (middle,)
        found = read_pieces(decoder, self.tokens, (0, *cuts, len(self.tokens)), (self.image,))
        if differs(found, self.logits.get(whole, self.logits[False]), decoder.dtype):
            raise UnsupportedAttentionError("with an image it comes to other results than transformers")


def find_sight(
    checkpoint: Checkpoint, model: Any, options: LoadOptions, processor: PreparingProcessor | None = None
) -> Sight:
    """Return the sight of a model whose layers attend by transformers' own function.

    Raises ModelLoadError when its files do not go together, and whatever keeps its class from seeing.
    """
    path = checkpoint.path
    if processor is None:
        inputs = VisionTower(model, 0).inputs
        processor = TransformersImageProcessor(
            path, model.config, inputs=inputs, dtype=model.dtype, max_pixels=options.max_image_pixels
        )
    tower = VisionTower(model, processor.token.id)
    try:
        text, tensors = processor.prepare(Image.effect_noise(_SIZE, 64).convert("RGB"))
        num_embeddings = len(tower.encode(tensors))
    except Exception as error:
        raise ModelLoadError(
            "model_unsupported", f"{path}: an image cannot be processed: {error!r}"
        ) from error
    num_placeholders = processor.count_placeholders(text)
    if num_embeddings != num_placeholders:
        cause = f"processor and vision tower differ: {num_placeholders} and {num_embeddings} tokens"
        raise model_broken(path, f"{cause} for the same image")
    around = ordinary_tokens(model).tolist()
    half = len(around) // 2
    tokens = (*around[:half], *processor.tokenize(text), *around[half:])
    shown = tuple(at for at, token in enumerate(tokens) if token == processor.token.id)
    pixels = Pixels(ImagePlaceholder(b"", text, num_placeholders), tensors)
    return Sight(
        processor, tower, tokens, PromptImage(shown, b"", pixels), _look(model, tokens, shown, tensors)
    )


@torch.inference_mode()
def _look(
    model: Any, tokens: tuple[int, ...], shown: tuple[int, ...], tensors: Mapping[str, Tensor]
) -> dict[bool, Tensor]:
    """Return the logits after a prompt with an image, and after the same told to be a prompt."""
    taken = inspect.signature(model.forward).parameters
    device = model.device
    ids = torch.tensor([tokens], device=device)
    types = torch.zeros_like(ids)
    types[0, list(shown)] = 1
    told: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    told |= {name: tensor.to(device) for name, tensor in tensors.items() if name in taken}
    told |= {name: types for name in taken if name.endswith("token_type_ids")}
    found = {False: model(**told).logits[0, -1].float()}
    if "token_type_ids" in taken:
        found[True] = model(**told | {"token_type_ids": torch.zeros_like(ids)}).logits[0, -1].float()
    return found
