"""Models whose layers repeat, of which transformers builds only the first.

To build, fill and run a layer of transformers takes longer than to map its weights. Where names, shapes and
formats of what is stored of a layer are those of an earlier one, and the configuration says the same of both,
its weights alone are its own. So transformers builds, checks and runs the first layers, until there is one of
each kind; our own decoder takes every other one for that module with other weights. A model that is not
exactly so is loaded whole.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from neuron.models.architecture import context_length
from neuron.models.attention_interface import PROBE_NAME, AttentionProbe
from neuron.models.checkpoint import Checkpoint, ModelLoadError, TensorEntry
from neuron.models.fused.decoder import FusedDecoder, fuse_decoder
from neuron.models.fused.families import Family
from neuron.models.linear import NAME_IN_MODEL
from neuron.models.probe import Probe, probe_known
from neuron.models.weights import LoadOptions, TensorReader, load_exactly

_NAME = re.compile(r"(.*\blayers)\.(\d+)\.(.+)")  # the layers' name, a layer's number, a name in it

Layer = Mapping[str, TensorEntry]  # what is stored of one, by name in it


@dataclass(frozen=True, slots=True)
class RepeatedLayers:
    """The layers of a checkpoint, some of them like earlier ones."""

    name: str  # in the model
    layers: Sequence[Layer]
    likes: Sequence[int]  # of each layer the first that is like it

    @property
    def num_first(self) -> int:
        """How many there are until there is one of each kind."""
        return max(self.likes) + 1

    def first(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return the checkpoint without the layers that follow the first."""
        numbered = enumerate(self.layers[self.num_first :], self.num_first)
        others = {f"{self.name}.{number}.{name}" for number, layer in numbered for name in layer}
        tensors = {name: entry for name, entry in checkpoint.tensors.items() if name not in others}
        return replace(checkpoint, tensors=tensors)

    def fits(self, model: Any, probe: Probe) -> bool:
        """Return whether the first layers of transformers' model use nothing but the weights that are stored.

        Their parameters must be those of linear layers and norms, and their attention must ask for no tensor.
        """
        modules = dict(model.named_modules()).get(self.name)
        params = probe.attention.params
        return (
            modules is model.get_decoder().layers
            and params.keys() == {*range(self.num_first)}
            and all(asked.is_plain and asked.latent is None for asked in params.values())
            and all(map(_consists_of, modules, self.layers))
        )

    def widened(self, probe: Probe) -> Probe:
        """Return the probe of all layers for that of the first."""
        attention, first = AttentionProbe(attends=False), probe.attention
        attention.layers = {layer: first.layers[like] for layer, like in enumerate(self.likes)}
        attention.params = {layer: first.params[like] for layer, like in enumerate(self.likes)}
        return replace(probe, attention=attention)

    def others(self, model: Any, reader: TensorReader) -> Iterator[RepeatedModule]:
        """Yield the layers that follow those of transformers' model, each as it is read."""
        first = model.get_decoder().layers
        dtypes = [{name: parameter.dtype for name, parameter in m.named_parameters()} for m in first]
        for number in range(self.num_first, len(self.layers)):
            like, path = self.likes[number], f"{self.name}.{number}"
            stored = dtypes[like].items()
            weights = {name: reader.read(f"{path}.{name}", dtype) for name, dtype in stored}
            yield RepeatedModule(first[like], path, number, weights)


class RepeatedModule:
    """A module of transformers with other weights: for all else the module that it is `like` is asked."""

    def __init__(self, like: Any, path: str, number: int, weights: Mapping[str, Tensor]) -> None:
        self._like = like
        self.layer_idx = number
        setattr(self, NAME_IN_MODEL, path)
        parts: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, weight in weights.items():
            part, _, inner = name.partition(".")
            if inner:
                parts[part][inner] = weight
            else:
                setattr(self, part, weight)
        for part, own in parts.items():
            setattr(self, part, RepeatedModule(getattr(like, part), f"{path}.{part}", number, own))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._like, name)


def _consists_of(module: nn.Module, stored: Layer) -> bool:
    """Return whether a module consists of linear layers and norms with the weights that are stored."""
    owners = {name.rpartition(".")[0] for name in stored}
    return (
        dict(module.named_parameters()).keys() == stored.keys()
        and not [*module.buffers()]
        and all(isinstance(module.get_submodule(o), nn.Linear) or o.endswith("norm") for o in owners)
    )


def find_repeated(checkpoint: Checkpoint, config: Any) -> RepeatedLayers | None:
    """Return the layers of a checkpoint with transformers' configuration `config`; None if none repeats.

    None of layers with experts either, which transformers makes of many tensors.
    """
    stored: defaultdict[str, dict[str, dict[str, TensorEntry]]] = defaultdict(lambda: defaultdict(dict))
    for name, entry in checkpoint.tensors.items():
        if ".experts." in name:
            return None
        if found := _NAME.fullmatch(name):
            stored[found[1]][found[2]][found[3]] = entry
    numbers = [str(number) for number in range(config.num_hidden_layers)]
    if len(stored) != 1 or {*numbers} != stored[place := next(iter(stored))].keys():
        return None
    layers = [stored[place][number] for number in numbers]
    told = [*_told_of_each(config).values()]
    kinds = [(_form(layer), *(repr(values[i]) for values in told)) for i, layer in enumerate(layers)]
    repeated = RepeatedLayers(place, layers, [kinds.index(kind) for kind in kinds])
    return repeated if repeated.num_first < len(layers) else None


def _form(layer: Layer) -> object:
    """Return all that is known of a layer but its weights' numbers."""
    return {name: (entry.dtype, entry.shape) for name, entry in layer.items()}


def _told_of_each(config: Any) -> dict[str, Sequence[Any]]:
    """Return what a configuration may say of each layer, by key."""
    count = config.num_hidden_layers
    lists = {key: value for key, value in vars(config).items() if isinstance(value, list | tuple)}
    return {key: values for key, values in lists.items() if len(values) == count}


def _config_of_first(config: Any, count: int) -> Any:
    """Return transformers' configuration of a model's first layers."""
    first = copy(config)
    first.num_hidden_layers = count
    for key, values in _told_of_each(config).items():
        setattr(first, key, values[:count])
    return first


def load_repeated(
    checkpoint: Checkpoint, config: Any, model_class: Any, family: Family, options: LoadOptions
) -> FusedDecoder | None:
    """Return the decoder of a model of text whose layers repeat; None of one that must be loaded whole.

    Raises ModelLoadError if a weight cannot be read.
    """
    is_plain = family.has_plain_layers and config.get_text_config(decoder=True) is config
    repeated = find_repeated(checkpoint, config) if is_plain else None
    if repeated is None:
        return None
    with ExitStack() as files:
        reader = TensorReader(checkpoint, files, options)
        first, config_of_first = repeated.first(checkpoint), _config_of_first(config, repeated.num_first)
        model = load_exactly(first, config_of_first, model_class, reader, attention=PROBE_NAME)
        try:
            probe = None if model is None else probe_known(first, model, config_of_first)
        except ModelLoadError:  # which the whole model explains
            return None
        if probe is None or not repeated.fits(model, probe):
            return None
        others = [*repeated.others(model, reader)]
    context = context_length(config)
    return fuse_decoder(model, family, config, repeated.widened(probe), context=context, more_layers=others)
