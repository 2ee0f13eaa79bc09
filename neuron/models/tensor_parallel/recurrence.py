"""Layers that keep states and are split by their heads: what of their tensors belongs to which.

A delta rule norms each head alone, Mamba 2 the heads of each group, or not at all: a rank has whole groups,
or a part of the only one, whose norm is then of all ranks (`structure.joined_norms`). Mamba and short
convolutions have no heads and are split by channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple


class Sections(NamedTuple):
    """What the rows of a tensor are: one section after the other."""

    keys: tuple[str, ...]  # of the configuration: what is counted in each section
    elements: tuple[int, ...] = ()  # how many rows there are for each; empty: as many for all


@dataclass(frozen=True, slots=True)
class Recurrence:
    """The layers of one kind."""

    module: str  # of a layer
    counts: Mapping[str, int]  # of heads and groups, by the keys of the configuration
    widths: Mapping[str, int]  # what else of the configuration is of heads
    rows: Mapping[str, Sections]  # of its own modules and parameters
    out_key: str  # of whose heads `out_proj` has columns, and `x_proj`


CHANNELS = "conv_channels"  # of a short convolution: no key of the configuration
_KEYS, _VALUES = "linear_num_key_heads", "linear_num_value_heads"


def _delta_rule(config: Any, num_ranks: int) -> Recurrence | None:
    counts: dict[str, int] = {key: getattr(config, key, None) or 1 for key in (_KEYS, _VALUES)}
    if any(count % num_ranks for count in counts.values()):
        return None
    dims = config.linear_key_head_dim, config.linear_key_head_dim, config.linear_value_head_dim
    joined = Sections((_KEYS, _KEYS, _VALUES), dims)
    rows = dict.fromkeys(("in_proj_qkv", "conv1d"), joined)
    rows |= dict.fromkeys(("in_proj_qkvz", "in_proj_ba"), Sections((_KEYS,)))
    rows |= dict.fromkeys(("in_proj_z", "in_proj_b", "in_proj_a", "A_log", "dt_bias"), Sections((_VALUES,)))
    return Recurrence("linear_attn", counts, {}, rows, _VALUES)


def _nemotron_h(config: Any, num_ranks: int) -> Recurrence | None:
    if config.n_groups % num_ranks or config.mamba_num_heads % num_ranks:
        return None
    return _state_space(config, "mixer", "mamba_num_heads", "mamba_head_dim", "n_groups", "ssm_state_size")


def _bamba(config: Any, num_ranks: int) -> Recurrence | None:
    keys = "mamba_n_heads", "mamba_d_head", "mamba_n_groups", "mamba_d_state"
    return _expanded(config, num_ranks, "mamba", keys, "mamba_expand")


def _mamba2(config: Any, num_ranks: int) -> Recurrence | None:
    return _expanded(
        config, num_ranks, "mixer", ("num_heads", "head_dim", "n_groups", "state_size"), "expand"
    )


def _expanded(
    config: Any, num_ranks: int, module: str, keys: tuple[str, str, str, str], expand: str
) -> Recurrence | None:
    """Return Mamba 2's whose width is `expand` times the model's. One group may be on all ranks."""
    heads, _, groups, _ = keys
    if any(getattr(config, key) % num_ranks for key in (heads, expand)):
        return None
    if getattr(config, groups) > 1 and getattr(config, groups) % num_ranks:
        return None
    return _state_space(config, module, *keys, {expand: getattr(config, expand)})


def _falcon_h1(config: Any, num_ranks: int) -> Recurrence | None:
    groups, heads = config.mamba_n_groups, config.mamba_n_heads
    if config.mamba_rms_norm or heads % num_ranks or (groups > 1 and groups % num_ranks):
        return None
    if config.mamba_d_ssm != heads * config.mamba_d_head:
        return None
    widths = {"mamba_d_ssm": config.mamba_d_ssm}
    keys = "mamba_n_heads", "mamba_d_head", "mamba_n_groups", "mamba_d_state"
    return _state_space(config, "mamba", *keys, widths)


def _state_space(  # noqa: PLR0913
    config: Any,
    module: str,
    heads: str,
    head_dim: str,
    groups: str,
    state: str,
    widths: Mapping[str, int] | None = None,
) -> Recurrence:
    """Return Mamba 2's: its inputs are gate, x, B and C of each group, and a step of each head."""
    per_head, per_group = getattr(config, head_dim), getattr(config, state)
    mixed = Sections((heads, groups, groups), (per_head, per_group, per_group))
    inputs = Sections((heads, *mixed.keys, heads), (per_head, *mixed.elements, 1))
    rows = {"in_proj": inputs, "conv1d": mixed}
    rows |= dict.fromkeys(("A_log", "D", "dt_bias", "norm"), Sections((heads,)))
    counts = {key: getattr(config, key) for key in (heads, groups)}
    return Recurrence(module, counts, widths or {}, rows, heads)


def _channels(module: str, key: str, config: Any, num_ranks: int) -> Recurrence | None:
    """Return Mamba's, whose channels have no heads; `key` counts them, or how many there are for an input.

    What steps and projections of the state are made of is a sum over all channels (`x_proj`).
    """
    if getattr(config, key) % num_ranks:
        return None
    rows = dict.fromkeys(("conv1d", "dt_proj", "A_log", "D"), Sections((key,)))
    rows["in_proj"] = Sections((key, key))
    return Recurrence(module, {key: getattr(config, key)}, {}, rows, key)


def _short_convolution(config: Any, num_ranks: int) -> Recurrence | None:
    """Return LFM2's, whose gates and convolution are of each channel."""
    if config.hidden_size % num_ranks:
        return None
    rows = {"in_proj": Sections((CHANNELS,) * 3), "conv": Sections((CHANNELS,))}
    return Recurrence("conv", {CHANNELS: config.hidden_size}, {}, rows, CHANNELS)


_mamba = partial(_channels, "mixer", "intermediate_size")
_LAYERS: dict[str, Callable[[Any, int], Recurrence | None]] = {
    "bamba": _bamba,
    "falcon_h1": _falcon_h1,
    "falcon_mamba": _mamba,
    "granitemoehybrid": _bamba,
    "jamba": partial(_channels, "mamba", "mamba_expand"),
    "lfm2": _short_convolution,
    "lfm2_moe": _short_convolution,
    "lfm3": _short_convolution,
    "mamba": _mamba,
    "mamba2": _mamba2,
    "nemotron_h": _nemotron_h,
}


def find_recurrence(text_config: Any, num_ranks: int) -> Recurrence | None:
    """Return the layers of a model that are split by their heads; None if there are none, or too few."""
    find = _LAYERS.get(text_config.model_type, _delta_rule)
    return find(text_config, num_ranks)
