"""The multi-token head of a checkpoint, and the checkpoint with and without it.

A head is a layer of the decoder's kind with three norms and a projection. Qwen3-Next and Qwen3.5 store it as
`mtp.*`, DeepSeek-V3 and GLM-4.5 as the layer after the last, in `num_nextn_predict_layers`' count. Where a
model has several, the first guesses for all. Embedding and output head are the model's: copies are not read.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from neuron.models.architecture import read_config
from neuron.models.checkpoint import Checkpoint, HeadTensors, ModelLoadError, TensorEntry
from neuron.models.fused.decoder import find_family

log = logging.getLogger("neuron.models")

HeadWish = Literal["mtp", "auto"] | None
"""Whether a checkpoint must have a head, or may have one that is used then; None: it is left out."""

_FIRST_LAYER = re.compile(r"(?!mtp\.)(.*\.|)layers\.0\.input_layernorm\.weight$")
_CURE = "set speculation to 'ngram' to load the model without it"


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a family names what a head has, without the prefix of all its tensors."""

    embedding_norm: str
    hidden_norm: str
    projection: str
    last_norm: str
    copies: tuple[str, ...] = ()  # of the model's own tensors

    @property
    def own(self) -> list[str]:
        return [self.embedding_norm, self.hidden_norm, self.projection, self.last_norm]


_MTP = _Layout("pre_fc_norm_embedding.weight", "pre_fc_norm_hidden.weight", "fc.weight", "norm.weight")
_NEXTN = _Layout(
    *("enorm.weight", "hnorm.weight", "eh_proj.weight", "shared_head.norm.weight"),
    copies=("embed_tokens.weight", "shared_head.head.weight"),
)
_QWEN = frozenset({"qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"})
_DEEPSEEK = frozenset({"deepseek_v3", "glm4_moe", "glm4_moe_lite"})


@dataclass(frozen=True, slots=True)
class MultiTokenLayer:
    """Where a checkpoint has its head: the names of its tensors, as they are stored."""

    layout: _Layout
    prefix: str  # of what it has beside the layer
    layer: str  # prefix of its layer
    layers: str  # prefix of the model's own layers, without their numbers
    number: int  # of them

    def is_of(self, name: str) -> bool:
        """Return whether a tensor belongs to a head, the first or another."""
        found = re.match(rf"{re.escape(self.layers)}(\d+)\.", name)
        return name.startswith("mtp.") or (found is not None and int(found[1]) >= self.number)

    def parts(self, tensors: Mapping[str, TensorEntry]) -> dict[str, TensorEntry]:
        """Return the tensors of its layer, by their names there."""
        others = {self.prefix + name for name in (*self.layout.own, *self.layout.copies)}
        return _parts(tensors, self.layer, others)


def find_head(checkpoint: Checkpoint) -> MultiTokenLayer | None:
    """Return where a checkpoint has a head that is known here; None if it has none."""
    text: Mapping[str, Any] = checkpoint.config.get("text_config") or checkpoint.config
    kind, number = text.get("model_type"), text.get("num_hidden_layers")
    first = next(filter(None, map(_FIRST_LAYER.match, checkpoint.tensors)), None)
    if first is None or not isinstance(number, int):
        return None
    layers = f"{first[1]}layers."
    head = None
    if kind in _QWEN:
        head = MultiTokenLayer(_MTP, "mtp.", "mtp.layers.0.", layers, number)
    elif kind in _DEEPSEEK and text.get("num_nextn_predict_layers", 1) != 0:
        prefix = f"{layers}{number}."
        head = MultiTokenLayer(_NEXTN, prefix, prefix, layers, number)
    return head if head and any(map(head.is_of, checkpoint.tensors)) else None


def choose_head(checkpoint: Checkpoint, wish: HeadWish) -> Checkpoint:
    """Return the checkpoint with its head if one is wished for, and otherwise of the model alone.

    Raises ModelLoadError if it must have a head and has none that fits.
    """
    if wish == "mtp":
        return with_head(checkpoint)
    if wish == "auto" and find_head(checkpoint):
        try:
            return with_head(checkpoint)
        except ModelLoadError as error:
            log.warning("the multi-token head is left out", extra={"cause": error.message})
    return without_head(checkpoint)


def without_head(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint of the model alone."""
    head = find_head(checkpoint)
    if head is None:
        return checkpoint
    tensors = {name: entry for name, entry in checkpoint.tensors.items() if not head.is_of(name)}
    return replace(checkpoint, tensors=tensors)


def with_head(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint as one of a model with one more layer, which is the head's.

    Raises ModelLoadError if it has none, or one that does not fit.
    """
    head = find_head(checkpoint)
    if head is None:
        cause = "its weights have no multi-token head that is known here (mtp.*, or a layer with eh_proj)"
        raise _refused(f"{checkpoint.path}: {cause}")
    config = read_config(checkpoint)
    text_config = config.get_text_config(decoder=True)
    if find_family(config) is None:
        key = f"the {text_config.model_type} with its rope_parameters"
        raise _refused(f"{checkpoint.config_file}: {key} does not run with a multi-token head")
    _check_fit(checkpoint, head, text_config.hidden_size)
    layer, stored = f"{head.layers}{head.number}.", checkpoint.tensors
    own = HeadTensors(layer, tuple(stored[head.prefix + name] for name in head.layout.own))
    tensors = without_head(checkpoint).tensors | {
        layer + name: entry for name, entry in head.parts(stored).items()
    }
    config_with = _longer(checkpoint.config, text_config, head.number)
    return replace(checkpoint, tensors=tensors, head=own, config=config_with)


def _check_fit(checkpoint: Checkpoint, head: MultiTokenLayer, hidden: int) -> None:
    """Refuse a head whose tensors are not those of the model's last layer that attends, and of a head."""
    tensors = checkpoint.tensors
    wanted: dict[str, tuple[int, ...]] = {head.prefix + name: (hidden,) for name in head.layout.own}
    wanted[head.prefix + head.layout.projection] = (hidden, 2 * hidden)
    alike = _attending_layer(tensors, head)
    wanted |= {head.layer + name: entry.shape for name, entry in _parts(tensors, alike, set()).items()}
    found = {head.layer + name: entry for name, entry in head.parts(tensors).items()}
    found |= {name: tensors[name] for name in wanted.keys() & tensors.keys()}
    if missing := sorted(wanted.keys() - found.keys()):
        raise _refused(
            f"{checkpoint.path}: the multi-token head lacks {missing[0]} ({len(missing)} such tensors)"
        )
    if unknown := sorted(found.keys() - wanted.keys()):
        cause = f"{unknown[0]} has no place in a multi-token head like layer {alike.rstrip('.')}"
        raise _refused(f"{found[unknown[0]].file}: {cause}")
    for name, shape in wanted.items():
        if found[name].shape != shape:
            cause = f"{name} has shape {list(found[name].shape)} instead of {list(shape)}"
            raise _refused(f"{found[name].file}: {cause}")


def _attending_layer(tensors: Mapping[str, TensorEntry], head: MultiTokenLayer) -> str:
    """Return the prefix of the model's last layer with an attention."""
    for number in reversed(range(head.number)):
        prefix = f"{head.layers}{number}."
        if any(name.startswith(f"{prefix}self_attn.") for name in tensors):
            return prefix
    return f"{head.layers}0."


def _parts(tensors: Mapping[str, TensorEntry], layer: str, others: set[str]) -> dict[str, TensorEntry]:
    """Return a layer's tensors but for `others`, and for frequencies, which older releases stored."""
    return {
        name.removeprefix(layer): entry
        for name, entry in tensors.items()
        if name.startswith(layer) and name not in others and not name.endswith("inv_freq")
    }


def _longer(config: dict[str, Any], text_config: Any, number: int) -> dict[str, Any]:
    """Return the configuration of a model with one more layer, of the kind of the head's."""
    more: dict[str, Any] = {"num_hidden_layers": number + 1}
    for key, kind in (("layer_types", "full_attention"), ("mlp_layer_types", "sparse")):
        if kinds := getattr(text_config, key, None):
            more[key] = [*kinds[:number], kind]
    return config | ({"text_config": config["text_config"] | more} if config.get("text_config") else more)


def _refused(cause: str) -> ModelLoadError:
    return ModelLoadError("model_unsupported", f"{cause}; {_CURE}")
