"""Where a model is cut: the sizes of its configuration, and those of one rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neuron.models.checkpoint import ModelLoadError
from neuron.models.tensor_parallel.parts import SplitParts
from neuron.models.tensor_parallel.recurrence import CHANNELS, Recurrence, find_recurrence
from neuron.split_heads import heads_problem

HEADS, KV_HEADS, HEAD_DIM = "num_attention_heads", "num_key_value_heads", "head_dim"
EXPERTS = "num_experts"
_EXPERTS = EXPERTS, "n_routed_experts", "num_local_experts"
# Widths of MLPs, of experts, and of MLPs beside experts: of each the first that a configuration has.
_DENSE = "intermediate_size_mlp", "dense_intermediate_size", "intermediate_size"
_EXPERT = "moe_intermediate_size", "intermediate_size"
_SHARED = (
    "shared_expert_intermediate_size",
    "shared_experts_intermediate_size",
    "moe_shared_expert_intermediate_size",
    "shared_intermediate_size",
)


@dataclass(frozen=True, slots=True)
class Rank:
    """One of the devices that a model is split over."""

    index: int
    size: int

    def bounds(self, count: int, unit: int = 1) -> tuple[int, int]:
        """Return where this rank's share of `count` begins and ends, between whole units."""
        units = -(-count // unit)
        edges = (units * index // self.size * unit for index in (self.index, self.index + 1))
        start, stop = (min(edge, count) for edge in edges)
        return start, stop


@dataclass(frozen=True, slots=True)
class SplitSizes:
    """The sizes of a configuration that are split, whole, by their keys."""

    heads: int  # 0: attention is whole
    kv_heads: int
    head_dim: int
    widths: Mapping[str, int]  # of MLPs
    dense_key: str | None  # of `widths`
    expert_key: str | None
    shared_key: str | None  # of an MLP beside experts
    recurrence: Recurrence | None  # None: layers with states are whole
    experts: int = 0  # that are spread, each whole on one rank; 0: they are split by width

    def count(self, key: str) -> int:
        """Return how many there are of what a key of the configuration counts."""
        recurrent = self.recurrence.counts if self.recurrence else {}
        return {
            HEADS: self.heads,
            KV_HEADS: self.kv_heads,
            EXPERTS: self.experts,
            **self.widths,
            **recurrent,
        }[key]

    def bounds(self, key: str, rank: Rank) -> tuple[int, int]:
        """Return which heads a rank has; several have the same where there are too few, of keys or groups."""
        count = self.count(key)
        if count >= rank.size:
            return rank.bounds(count)
        head = rank.index * count // rank.size
        return head, head + 1


def split_sizes(text_config: Any, parts: SplitParts, num_ranks: int, file: Path) -> SplitSizes:
    """Return the sizes that are split. Raises ModelLoadError, which names file and key."""

    def size(key: str) -> int:
        value = stated(text_config, key)
        if not isinstance(value, int) or value < num_ranks:
            raise _refused(file, f"{key} is {value!r}, which tensor_parallel {num_ranks} cannot split")
        return value

    def first(keys: Sequence[str]) -> str:
        return next((key for key in keys if stated(text_config, key)), keys[-1])

    expert = first(_EXPERT) if parts.experts else None
    shared = first((*_SHARED, expert)) if expert else None
    dense = first(_DENSE) if parts.mlp or first(_DENSE) == expert else None
    widths = {key: size(key) for key in (dense, expert, shared) if key}
    heads = kv_heads = head_dim = 0
    if parts.attention:
        heads = size(HEADS)
        kv_heads = stated(text_config, KV_HEADS) or heads
        if problem := heads_problem(heads, kv_heads, num_ranks):
            raise _refused(file, problem)
        head_dim = stated(text_config, HEAD_DIM) or text_config.hidden_size // heads
    recurrence = find_recurrence(text_config, num_ranks)
    if not (recurrence or heads or widths):
        raise _refused(file, f"its states are not split over {num_ranks} devices; load it on fewer")
    return SplitSizes(heads, kv_heads, head_dim, widths, dense, expert, shared, recurrence)


def spread_sizes(text_config: Any, sizes: SplitSizes, num_ranks: int, *, shares: bool) -> SplitSizes | None:
    """Return the sizes of a model whose experts are spread instead of split; None where they cannot be.

    With `shares` there are MLPs beside the experts, which are split by a width of their own.
    """
    counts = [stated(text_config, key) for key in _EXPERTS]
    count = next((count for count in counts if count), 0)
    if not sizes.expert_key or not count or count % num_ranks:
        return None
    if shares and sizes.shared_key == sizes.expert_key:
        return None
    widths = {key: width for key, width in sizes.widths.items() if key != sizes.expert_key}
    dense, shared = (key if key in widths else None for key in (sizes.dense_key, sizes.shared_key))
    return replace(sizes, widths=widths, dense_key=dense, expert_key=None, shared_key=shared, experts=count)


def stated(text_config: Any, key: str) -> Any:
    """Return what a configuration says, None where it says nothing or something else for each layer."""
    try:
        return getattr(text_config, key, None)
    except Exception:  # noqa: BLE001 - transformers has an error of its own for what differs between layers
        return None


def _refused(file: Path, cause: str) -> ModelLoadError:
    return ModelLoadError("model_unsupported", f"{file}: {cause}")


def rank_values(
    text_config: Any, sizes: SplitSizes, rank: Rank, widths: Mapping[str, tuple[int, int]]
) -> dict[str, int]:
    """Return the values of a rank's configuration that are other than the whole one's."""
    values = {key: stop - start for key, (start, stop) in widths.items()}
    if sizes.recurrence:
        bounds = {key: sizes.bounds(key, rank) for key in sizes.recurrence.counts if key != CHANNELS}
        values |= {key: stop - start for key, (start, stop) in bounds.items()}
        values |= {key: width // rank.size for key, width in sizes.recurrence.widths.items()}
    if sizes.heads:
        values[HEADS] = sizes.heads // rank.size
        if stated(text_config, KV_HEADS) is not None:
            start, stop = sizes.bounds(KV_HEADS, rank)
            values[KV_HEADS] = stop - start
        if stated(text_config, "kv_lora_rank") is None:
            values[HEAD_DIM] = sizes.head_dim
    return values
