"""A decoder of our own, made of the kinds that the table of families names for a model.

transformers' layers are general: one token takes some 40 operations a layer, each of which costs more to call
than to compute. This decoder does the same arithmetic in half as many: one linear layer for query, key and
value, one for gate and up, norm and rotation of queries and keys together. How linear layers multiply is
`linear`'s business.

`fuse_decoder` takes the weights out of a loaded model of transformers, so that none is held twice. A model
that is of no family in the table stays with transformers' own code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding

from neuron.device.kv_cache import KVShape
from neuron.device.model import ImageEmbeddings, VisionEncoder
from neuron.device.state_pool import StateName, StateShape
from neuron.models.formats.floats import activation_dtype
from neuron.models.fused.families import FAMILIES, Family
from neuron.models.fused.layer_kind import ModelFacts, Residual, Step
from neuron.models.fused.norm import Norm
from neuron.models.fused.rotation import Rotary
from neuron.models.image_input import ImageProcessor
from neuron.models.linear import PackedLinear, pack_linear
from neuron.models.probe import Probe
from neuron.models.stored_weight import StoredWeight
from neuron.step import PromptRule

# Image-text models that embed token 0 where a text has the token of an image.
_EMBED_OTHERWISE = frozenset({"kimi_k25"})


class FusedDecoder:
    """A `neuron.device.model.DecoderModel` with the attributes of `TransformersDecoder`."""

    prompt_rule: PromptRule | None = None

    def __init__(self, model: Any, family: Family, facts: ModelFacts, *, context: int) -> None:
        body = model.get_decoder()  # of a vision model, the part for text
        self.vocab_size = facts.probe.vocab_size
        self.context = context
        self.num_embeddings: int = body.embed_tokens.num_embeddings
        self.dtype = facts.dtype
        self.device = facts.device
        self.vision_encoder: VisionEncoder | None = None
        self.image_processor: ImageProcessor | None = None
        self.activations = facts.activations  # the dtype that linear layers take
        self._embed = body.embed_tokens.weight
        rotary = getattr(body, family.rotary, None)
        self._rotary = Rotary(rotary, facts.activations, facts.device) if rotary else None
        self._parts = [part for layer in body.layers for part in _parts(layer, family, facts)]
        self._norm = family.norm(getattr(body, family.last_norm), facts.activations)
        self._lm_head = pack_linear([model.lm_head])
        kinds = [part.kind for part in self._parts]
        self.layers: Mapping[int, KVShape] = dict(chain.from_iterable(k.kv_shapes.items() for k in kinds))
        self.states: Mapping[StateName, StateShape] = dict(
            chain.from_iterable(kind.states.items() for kind in kinds)
        )
        self.is_capturable = all(kind.is_capturable for kind in kinds)

    def __call__(
        self,
        tokens: Tensor,
        positions: Tensor,
        logits_indices: Tensor,
        image_embeddings: ImageEmbeddings = (),
    ) -> Tensor:
        embedded = embedding(tokens, self._embed).to(self.activations)
        x = insert_image_embeddings(embedded, image_embeddings)
        step = Step(positions, self._rotary(positions) if self._rotary else None)
        for part in self._parts:
            x = part(x, step)
        if len(logits_indices) != len(x):
            x = x[logits_indices]
        return self._lm_head(self._norm(x)).float()

    @property
    def linears(self) -> list[PackedLinear]:
        """The linear layers of a step, in the order in which they run."""
        return [*chain.from_iterable(part.kind.linears for part in self._parts), self._lm_head]


def _parts(layer: Any, family: Family, facts: ModelFacts) -> Iterator[Residual]:
    """Take the weights of a layer of transformers."""

    def norm(name: str | None) -> Norm | None:
        return None if name is None else family.norm(getattr(layer, name), facts.activations)

    for part in family.parts:
        if (module := getattr(layer, part.module, None)) is not None:
            yield Residual(part.build(module, facts), norm(part.before), norm(part.after))


def insert_image_embeddings(embedded: Tensor, image_embeddings: ImageEmbeddings) -> Tensor:
    """Return `embedded`, (tokens, hidden), with image embeddings in place of their placeholders'."""
    for rows, embeddings in image_embeddings:
        embedded = embedded.index_copy(0, rows, embeddings.to(embedded.dtype))
    return embedded


@torch.inference_mode()
def fuse_decoder(model: Any, text_config: Any, probe: Probe, *, context: int) -> FusedDecoder | None:
    """Return a decoder with the weights of `model`, which loses them; None if the table has no row for it."""
    family = FAMILIES.get(text_config.model_type)
    is_plain = (
        not (probe.first_position or probe.prompt_rule) and model.config.model_type not in _EMBED_OTHERWISE
    )
    if family is None or not family.fits(text_config) or not is_plain:
        return None
    is_stored = any(isinstance(parameter, StoredWeight) for parameter in model.parameters())
    activations = activation_dtype(model.device, model.dtype, has_stored_weights=is_stored)
    facts = ModelFacts(text_config, probe, family.norm, model.dtype, activations, model.device)
    return FusedDecoder(model, family, facts, context=context)
