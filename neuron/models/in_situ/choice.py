"""Which stored tensors are quantized: those that end as the weights of linear layers and of experts.

transformers renames tensors, splits them and merges them. So its model is built without memory, and each
stored name is followed to the parameter it becomes.

left as it is                 why
embeddings, norms, biases,    they are looked up or added, not multiplied by, or small
convolutions, states
routers and other gates       they choose; what they cost is nothing
everything that sees or       its outliers want more bits, and it runs once for a prompt
hears

The head is `HEAD`, whatever the rest is: it weighs most of all matrices in a small model, and what it is off
by is in every logit. An embedding that is tied to it is the same tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Chunk,
    Concatenate,
    MergeModulelist,
    Transpose,
    WeightConverter,
    WeightRenaming,
    rename_source_key,
)

HEAD = "q8_0"

# Parts of names of modules whose weights are left.
_GATES = re.compile(r"(^|\.)(gate|router|shared_expert_gate|dt_proj)(\.|$)")
_SENSES = re.compile(r"(^|[._])(vision|visual|audio|image|speech|multi_modal)([._]|$)")
_MIN_OUTPUTS = 16  # for one input: a linear layer with fewer is a gate of some kind
# That leave rows whole.
_ON_ROWS = (Chunk, Concatenate, MergeModulelist, Transpose)


@dataclass(frozen=True, slots=True)
class WeightChoice:
    """How one stored tensor is quantized."""

    quant: str  # one of `IN_SITU`
    is_transposed: bool  # its rows are inputs


def choose(names: Iterable[str], config: Any, model_class: Any, quant: str) -> dict[str, WeightChoice]:
    """Return the choices for those of a checkpoint's tensors that are quantized, by their stored names."""
    with torch.device("meta"):
        model = model_class(config)
    wanted = dict(_targets(model, quant))
    transforms = get_model_conversion_mapping(model)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    by_source = {source: converter for converter in converters for source in converter.source_patterns}
    state = model.state_dict()
    choices = {}
    for name in names:
        target, source = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        operations = by_source[source].operations if source else []
        if target in wanted and all(isinstance(operation, _ON_ROWS) for operation in operations):
            is_turned = any(isinstance(operation, Transpose) for operation in operations)
            kind, is_transposed = wanted[target]
            choices[name] = WeightChoice(kind, is_transposed != is_turned)
    return choices


def _targets(model: Any, quant: str) -> Iterator[tuple[str, tuple[str, bool]]]:
    """Yield the parameters that are quantized, with how, and whether their rows are inputs."""
    head = model.get_output_embeddings()
    heads = {head, model.get_input_embeddings()} if head else set()
    heads = {module for module in heads if module.weight is head.weight}  # an embedding that is tied to it
    for name, module in model.named_modules():
        if module in heads:
            yield f"{name}.weight", (HEAD, False)
        elif _GATES.search(name) or _SENSES.search(name):
            continue
        elif isinstance(module, nn.Linear):
            if module.out_features * _MIN_OUTPUTS > module.in_features:
                yield f"{name}.weight", (quant, False)
        elif hasattr(module, "is_transposed"):  # experts, as transformers keeps them
            for part, parameter in module.named_parameters(recurse=False):
                if parameter.ndim == 3:
                    yield f"{name}.{part}", (quant, module.is_transposed)
