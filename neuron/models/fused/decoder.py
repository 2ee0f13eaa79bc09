"""A decoder of our own, made of the kinds that the table of families names for a model.

transformers' layers are general: one token takes some 40 operations a layer, each of which costs more to call
than to compute. This decoder does the same arithmetic in half as many: one linear layer for query, key and
value, one for gate and up, norm and rotation of queries and keys together. How linear layers multiply is
`linear`'s business.

`fuse_decoder` takes the weights out of a loaded model of transformers, so that none is held twice. A model
that is of no family in the table stays with transformers' own code.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from neuron.device.kv_cache import KVShape
from neuron.device.model import ImageEmbeddings, VisionEncoder
from neuron.device.state_pool import StateName, StateShape
from neuron.models.adapters.adapted_rows import adapted_rows
from neuron.models.adapters.bank import AdapterBank
from neuron.models.formats.floats import activation_dtype
from neuron.models.fused.families import FAMILIES, Family
from neuron.models.fused.layer_kind import ModelFacts, Residual, Step
from neuron.models.fused.multi_token_head import HeadWeights, MultiTokenHead
from neuron.models.fused.norm import Norm
from neuron.models.fused.rotation import Rotary
from neuron.models.image_input import ImageProcessor
from neuron.models.linear import NAME_IN_MODEL, PackedLinear, pack_linear
from neuron.models.probe import Probe
from neuron.models.stored_weight import StoredWeight, can_look_up, embed, look_up
from neuron.step import PromptRule

# Image-text models that embed token 0 where a text has the token of an image.
_EMBED_OTHERWISE = frozenset({"kimi_k25"})


class FusedDecoder:
    """A `neuron.device.model.DecoderModel` with the attributes of `TransformersDecoder`."""

    prompt_rule: PromptRule | None = None

    def __init__(  # noqa: PLR0913 - of the last three a model has one at most
        self,
        model: Any,
        family: Family,
        facts: ModelFacts,
        *,
        context: int,
        split: Collection[Any] = (),
        more_layers: Iterable[Any] = (),
        head: HeadWeights | None = None,
    ) -> None:
        body = model.get_decoder()  # of a vision model, the part for text
        layers = [*body.layers, *more_layers]
        last = layers.pop() if head else None  # the head's
        self.vocab_size = facts.probe.vocab_size
        self.context = context
        self.num_embeddings: int = body.embed_tokens.num_embeddings
        self.dtype = facts.dtype
        self.device = facts.device
        self.vision_encoder: VisionEncoder | None = None
        self.image_processor: ImageProcessor | None = None
        self.whole_images = facts.probe.sees_images_whole
        self.activations = facts.activations  # the dtype that linear layers take
        self._embed = body.embed_tokens.weight
        # Tokens that are chosen by logits are in range only if there are no more of these.
        self.embeds = can_look_up(self._embed) and self.vocab_size <= self.num_embeddings
        rotary = getattr(body, family.rotary, None)
        self._rotary = Rotary(rotary, facts.activations, facts.device, context) if rotary else None
        self._parts = [part for layer in layers for part in _parts(layer, family, facts, split)]
        self._num_mixing = max(at for at, part in enumerate(self._parts, 1) if part.kind.mixes_tokens)
        self._norm = family.norm(getattr(body, family.last_norm), facts.activations)
        self._lm_head = pack_linear([model.lm_head])
        self.hidden: Tensor | None = None
        self.head: MultiTokenHead | None = None
        parts = self._parts
        if head:
            own = list(_parts(last, family, facts, split))
            looking = partial(look_up, weight=self._embed) if self.embeds else None
            embeds = self.embed, looking
            self.head = MultiTokenHead(head, family.norm, facts, own, *embeds, self._rotary, self._lm_head)
            parts = parts + own
        kinds = [part.kind for part in parts]
        self.layers: Mapping[int, KVShape] = dict(chain.from_iterable(k.kv_shapes.items() for k in kinds))
        self.states: Mapping[StateName, StateShape] = dict(
            chain.from_iterable(kind.states.items() for kind in kinds)
        )
        self.is_capturable = all(kind.is_capturable for kind in kinds)
        self.runs_rows_alone = not self.states
        self.adapters: AdapterBank | None = AdapterBank(
            (linear.adapted for linear in self.linears), self.dtype, self.device
        )

    def __call__(
        self,
        tokens: Tensor,
        positions: Tensor,
        logits_indices: Tensor,
        image_embeddings: ImageEmbeddings = (),
    ) -> Tensor:
        x = insert_image_embeddings(self.embed(tokens), image_embeddings)
        rotation = self._rotary(positions) if self._rotary else None
        return self._compute(x, Step(positions, rotation), logits_indices)

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the embeddings of tokens."""
        if self.embeds and self.activations is torch.float32 and tokens.device.type == "cpu":
            return look_up(tokens, self._embed)
        return embed(tokens, self._embed).to(self.activations)

    def reaches(self, last: int) -> bool:
        """Return whether `compute` can go up to a position, whose angles are known from now on."""
        return self._rotary is None or self._rotary.keeps(last)

    def compute(self, tokens: Tensor, positions: Tensor, embedded: Tensor | None) -> Tensor:
        """Return the logits of all tokens, up to a position that it `reaches`."""
        x = look_up(tokens, self._embed) if embedded is None else embedded
        rotation = self._rotary.kept(positions) if self._rotary else None
        return self._compute(x, Step(positions, rotation), None)

    def finish(self, logits: Tensor) -> Tensor:
        """Return the logits."""
        return logits

    @property
    def is_recordable(self) -> bool:
        return self.activations is torch.float32 and all(part.is_recordable for part in self._parts)

    def _compute(self, x: Tensor, step: Step, logits_indices: Tensor | None) -> Tensor:
        mixing, alone = self._parts[: self._num_mixing], self._parts[self._num_mixing :]
        for part in mixing:
            x = part(x, step)
        if not self.head and adapted_rows() is None:  # else each row of the step counts
            x, logits_indices = _chosen(x, logits_indices), None
        for part in alone if len(x) else ():
            x = part(x, step)
        if self.head:
            x = self.hidden = self._norm(x)
        x = _chosen(x, logits_indices)
        return self._lm_head(x if self.head else self._norm(x)).float()

    @property
    def linears(self) -> list[PackedLinear]:
        """The linear layers of a step, in the order in which they run."""
        return [*chain.from_iterable(part.kind.linears for part in self._parts), self._lm_head]


def _chosen(x: Tensor, rows: Tensor | None) -> Tensor:
    """Return some rows of `x`, or all of them. Torch would wake its threads for `x[rows]`."""
    return x if rows is None or len(rows) == len(x) else x.index_select(0, rows)


def _parts(layer: Any, family: Family, facts: ModelFacts, split: Collection[Any]) -> Iterator[Residual]:
    """Take the weights of a layer of transformers; modules of `split` make a rank's part of a sum."""

    def norm(name: str | None) -> Norm | None:
        return None if name is None else family.norm(getattr(layer, name), facts.activations)

    for part in family.parts:
        if (module := getattr(layer, part.module, None)) is not None:
            is_split = any(inner in split for inner in module.modules())
            kind = part.build(module, facts)
            yield Residual(kind, norm(part.before), norm(part.after), is_split)


def insert_image_embeddings(embedded: Tensor, image_embeddings: ImageEmbeddings) -> Tensor:
    """Return `embedded`, (tokens, hidden), with image embeddings in place of their placeholders'."""
    for rows, features in image_embeddings:
        embedded = embedded.index_copy(0, rows, features.embeddings.to(embedded))
    return embedded


def find_family(config: Any) -> Family | None:
    """Return the row of a model with transformers' configuration `config`; None if the table has none."""
    text_config = config.get_text_config(decoder=True)
    family = FAMILIES.get(text_config.model_type)
    if family is None or not family.fits(text_config) or config.model_type in _EMBED_OTHERWISE:
        return None
    return family


@torch.inference_mode()
def fuse_decoder(  # noqa: PLR0913
    model: Any,
    family: Family,
    text_config: Any,
    probe: Probe,
    *,
    context: int,
    split: Collection[Any] = (),
    more_layers: Iterable[Any] = (),
    head: HeadWeights | None = None,
) -> FusedDecoder:
    """Return a decoder with the weights of a `model` of this family, which loses them.

    What the modules in `split` make is added up over the ranks of a group. `more_layers` follow the model's
    own. With a `head` the last layer is the head's.
    """
    for name, module in model.named_modules():
        if ".layers." in f".{name}":
            setattr(module, NAME_IN_MODEL, name)
    is_stored = any(isinstance(parameter, StoredWeight) for parameter in model.parameters())
    activations = activation_dtype(model.device, model.dtype, has_stored_weights=is_stored)
    facts = ModelFacts(text_config, probe, family.norm, model.dtype, activations, model.device)
    return FusedDecoder(
        model, family, facts, context=context, split=split, more_layers=more_layers, head=head
    )
