"""Which key of a configuration contradicts the weights, found out once a load has failed.

A model whose tensors have other shapes than its configuration says is built again without memory, on torch's
meta device, with one size after another changed to what would fit. A key with which all shapes are those of
the weights is one to correct. Between two such models `between` is called: together they take seconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from itertools import islice
from typing import Any

import torch

from neuron.models.architecture import read_config
from neuron.models.checkpoint import LAYER_COUNTS, Checkpoint

Shape = tuple[int, ...]
Place = tuple[str, ...]  # of a key in a configuration
Between = Callable[[], None]

_MAX_SIZES = 100  # of a configuration that are tried: each costs the time of building a model
_LAYERS = 4  # that are built; a whole model takes seconds
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
# By a part of tensors' names: the configuration's keys by which transformers makes them.
_MADE_BY = {
    ".indexer.": ("index_head_dim", "index_n_heads", "indexer_types", "indexer_head_dim", "indexer_n_heads"),
    ".compressor.": ("compress_rates", "layer_types", "head_dim"),
    ".kv_a_layernorm.": ("kv_lora_rank",),
    ".kv_a_proj_with_mqa.": ("kv_lora_rank", "qk_rope_head_dim"),
    ".kv_b_proj.": ("kv_lora_rank", "num_attention_heads", "qk_nope_head_dim", "v_head_dim"),
    ".q_a_": ("q_lora_rank",),
    ".q_b_proj.": ("q_lora_rank", "num_attention_heads", "qk_nope_head_dim", "qk_rope_head_dim"),
    ".experts.": (*_EXPERTS, "moe_intermediate_size", "intermediate_size"),
    ".gate.": _EXPERTS,
    ".router.": _EXPERTS,
    ".shared_expert": (
        "n_shared_experts",
        "num_shared_experts",
        "moe_num_shared_experts",
        "moe_intermediate_size",
        "shared_expert_intermediate_size",
    ),
    ".q_proj.": ("q_lora_rank", "num_attention_heads", "head_dim"),
    ".k_proj.": ("num_key_value_heads", "head_dim"),
    ".v_proj.": ("num_key_value_heads", "head_dim"),
    ".o_proj.": ("num_attention_heads", "head_dim"),
    ".mlp.": ("intermediate_size",),
    ".linear_attn.": (
        "linear_num_key_heads",
        "linear_num_value_heads",
        "linear_key_head_dim",
        "linear_value_head_dim",
        "linear_conv_kernel_dim",
        "layer_types",
    ),
    ".conv.": ("conv_L_cache", "conv_bias", "layer_types"),
    ".mamba.": (
        "mamba_n_heads",
        "mamba_d_head",
        "mamba_d_state",
        "mamba_d_conv",
        "mamba_n_groups",
        "layer_types",
    ),
    ".mixer.": (
        "ssm_state_size",
        "state_size",
        "mamba_num_heads",
        "mamba_head_dim",
        "n_groups",
        "conv_kernel",
    ),
    ".self_attn.": ("layer_types",),
}
_NUMBERED = re.compile(r"(\w+)\.(\d+)\.")  # a container of modules, and the number of one in it


def contradicting_size(
    checkpoint: Checkpoint, model_class: Any, shapes: Mapping[str, Shape], between: Between
) -> str | None:
    """Return the sizes each of which would explain the weights' shapes, in words; None when none does.

    `shapes` are those of the weights, by the model's names, where the model has others.
    """
    before = _shapes(checkpoint, model_class, {})
    wanted = {name: shapes.get(name, shape) for name, shape in before.items()}
    found: list[str] = []
    for path, value in _sizes(checkpoint.config) if wanted != before else ():
        between()
        step = value or 1  # all shapes are linear in each size
        after = _shapes(checkpoint, model_class, {path: value + step})
        between()
        fitting = _fitting(value, step, before, after, wanted)
        if fitting is not None and _shapes(checkpoint, model_class, {path: fitting}) == wanted:
            found.append(f"{_place(checkpoint, path)} is {value}, but the weights have {fitting}")
    return " or ".join(found) or None


def contradicting_count(checkpoint: Checkpoint, name: str) -> str | None:
    """Return the number of layers or experts that contradicts the weights, in words.

    `name` is that of a tensor which the weights lack, or have no place for.
    """
    stored = [found for tensor in checkpoint.tensors for found in _NUMBERED.findall(tensor)]
    for container, _ in _NUMBERED.findall(name):
        number = 1 + max((int(index) for other, index in stored if other == container), default=-1)
        known = _EXPERTS if container == "experts" else LAYER_COUNTS
        for path, value in _sizes(checkpoint.config):
            if path[-1] in known and value != number:
                return f"{_place(checkpoint, path)} is {value}, but the weights have {number}"
    return None


def making_keys(checkpoint: Checkpoint, name: str) -> list[str]:
    """Return the configuration's keys by which a tensor is made, if they are known."""
    keys = next((keys for part, keys in _MADE_BY.items() if part in name), ())
    config = checkpoint.config.get("text_config") or checkpoint.config
    return [key for key in keys if key in config]


def contradicting_zero(checkpoint: Checkpoint, model_class: Any, between: Between) -> str | None:
    """Return the size that is not positive and keeps a model from being built, in words."""
    for path, value in _sizes(checkpoint.config):
        between()
        if value <= 0 and any(_shapes(checkpoint, model_class, {path: size}) for size in (1, 2)):
            return f"{_place(checkpoint, path)} is {value}"
    return None


def _place(checkpoint: Checkpoint, path: Place) -> str:
    return f"{checkpoint.config_file}: {'.'.join(path)}"


def _sizes(config: Mapping[str, Any]) -> Iterator[tuple[Place, int]]:
    """Yield the first whole numbers of a configuration and of its text part that may be sizes."""
    return islice(_whole_numbers(config), _MAX_SIZES)


def _whole_numbers(config: Mapping[str, Any]) -> Iterator[tuple[Place, int]]:
    for key, value in config.items():
        if isinstance(value, int) and not isinstance(value, bool) and not key.endswith(("_id", "_index")):
            yield (key,), value
    part = config.get("text_config")
    if isinstance(part, dict):
        yield from ((("text_config", *path), value) for path, value in _whole_numbers(part))


def _fitting(
    value: int,
    step: int,
    before: Mapping[str, Shape],
    after: Mapping[str, Shape],
    wanted: Mapping[str, Shape],
) -> int | None:
    """Return the size that the first wrong dimension which it changes asks for; None if there is no such."""
    for name, shape in wanted.items():
        for now, then, goal in zip(before[name], after.get(name, ()), shape, strict=False):
            if now not in (goal, then):
                fitting, rest = divmod((goal - now) * step, then - now)
                return None if rest else value + fitting
    return None


def _shapes(checkpoint: Checkpoint, model_class: Any, changes: Mapping[Place, int]) -> Mapping[str, Shape]:
    """Return the shapes of the first layers' parameters; none if such a model cannot be built."""
    config = deepcopy(checkpoint.config)
    for path, value in changes.items():
        (config["text_config"] if len(path) > 1 else config)[path[-1]] = value
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            _shorten(part)
    with suppress(Exception), torch.device("meta"):  # whatever transformers makes of such a configuration
        model = model_class(read_config(replace(checkpoint, config=config)))
        return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    return {}


def _shorten(part: dict[str, Any]) -> None:
    """Leave the first layers of a configuration, and what it says of each."""
    for key in LAYER_COUNTS & part.keys():
        count = part[key]
        if isinstance(count, int) and count > _LAYERS:
            part[key] = _LAYERS
            for other, value in part.items():
                if isinstance(value, list) and len(value) == count:
                    part[other] = value[:_LAYERS]
