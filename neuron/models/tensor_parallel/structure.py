"""Which modules of a rank's model make a part of a sum: its shapes and the whole model's tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from neuron.models.checkpoint import ModelLoadError

_OF_HEADS = {"sinks", "A_log", "D", "dt_bias"}  # parameters that have one number for each head
_DECAY = "A_log"  # of a recurrence, where what is not columns of heads is rows of them
_MLP_OUT = ("down_proj", "w2", "output_linear", "experts")


def summed_modules(model: nn.Module, whole: nn.Module, place: str) -> set[nn.Module]:
    """Return the modules of a rank's `model` whose results are to be added up.

    Those are linear layers with a part of their inputs, and experts with a part of their width. Raises
    ModelLoadError, naming the module, where the rank has a part of what nobody knows how to join. `whole` may
    have no numbers.
    """
    sizes = {name: parameter.shape for name, parameter in whole.named_parameters()}
    summed: set[nn.Module] = set()
    for name, parameter in model.named_parameters():
        dims = _cut(parameter.shape, sizes.get(name, parameter.shape))
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        is_of_experts = leaf.startswith(("gate_up_proj", "down_proj", "up_proj"))
        parent = model.get_submodule(owner.rpartition(".")[0])
        of_heads = leaf in _OF_HEADS or hasattr(parent, _DECAY) or isinstance(module, nn.Conv1d)
        if not dims or (of_heads and dims == [0]):
            continue
        if isinstance(module, nn.Linear) and len(dims) == 1:
            if dims == [1]:
                summed.add(module)
        elif is_of_experts and len(dims) == 1:
            summed.add(module)
        else:
            cause = (
                f"{name} has shape {list(parameter.shape)} of {list(sizes[name])}, which is not joined here"
            )
            raise ModelLoadError("model_unsupported", f"{place}: {cause}; load it without tensor_parallel")
    for name in _mixed(model, summed):
        cause = f"{name} would be split in part and in part whole"
        raise ModelLoadError("model_unsupported", f"{place}: {cause}; load it without tensor_parallel")
    return summed


def joined_norms(model: nn.Module, whole: nn.Module) -> Iterator[nn.Module]:
    """Yield the norms of a rank's `model` over groups of heads of which the rank has a part."""
    sizes = {name: getattr(module, "group_size", None) for name, module in whole.named_modules()}
    for name, module in model.named_modules():
        own = getattr(module, "group_size", None)
        if isinstance(own, int) and sizes.get(name) != own:
            yield module


def _cut(part: torch.Size, whole: torch.Size) -> list[int]:
    if len(part) != len(whole):
        return [0, 1]
    return [dim for dim, (mine, all_of_it) in enumerate(zip(part, whole, strict=True)) if mine != all_of_it]


def _mixed(model: nn.Module, summed: set[nn.Module]) -> Iterator[str]:
    """Yield the MLPs whose results are sums of parts and of wholes."""
    for name, module in model.named_modules():
        ends: Mapping[str, nn.Module] = {
            inner: end
            for inner, end in module.named_modules()
            if inner.rpartition(".")[2] in _MLP_OUT and ".experts." not in f".{inner}"
        }
        if hasattr(module, "experts") and len({end in summed for end in ends.values()}) > 1:
            yield name


def whole_model(model_class: Any, config: Any) -> nn.Module:
    """Return the whole model without its numbers."""
    with torch.device("meta"):
        model: nn.Module = model_class(config)
    return model
