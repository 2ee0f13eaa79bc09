"""What a layer of experts does beside its products, by `ext.matmul` on a CPU.

Each function is one call of it, which also records it (`decode_programs`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ext import matmul
from neuron.device.row_steps import address, bits

_native: Any = matmul.load()
_MOST_EXPERTS = 1024  # what a thread's stack has room for


class Scores(IntEnum):
    """What becomes of a router's logits, by the numbers of `ext.matmul`."""

    SOFTMAX_OF_ALL = 0
    SIGMOIDS = 1
    SOFTMAX_OF_CHOSEN = 2  # logits themselves are compared


@dataclass(frozen=True, slots=True)
class RoutingRule:
    """How a token's experts follow from its logits, and their weights.

    Experts are compared by their scores and a `bias` of each. Of `groups` of neighbours only some are `kept`,
    compared by the sum of their `best`. Weights are the scores of the chosen, divided by their sum and `eps`
    unless that is None, times `factor`.
    """

    experts: int
    chosen: int  # by each token
    scores: Scores
    bias: Tensor | None = None  # (experts,), float32
    groups: int = 1
    kept: int = 1
    best: int = 1
    eps: float | None = None
    factor: float = 1.0

    @property
    def runs_in_c(self) -> bool:
        """Whether `choose` can go by it: there are as many experts and groups as it asks for."""
        size = self.experts // max(self.groups, 1)
        return (
            _native is not None
            and self.experts <= _MOST_EXPERTS
            and 1 <= self.kept <= self.groups
            and size * self.groups == self.experts
            and 1 <= self.best <= size
            and 1 <= self.chosen <= size * self.kept
        )


def choose(rule: RoutingRule, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights and experts of each row of contiguous float32, both (rows, chosen); a rule that
    `runs_in_c`."""
    weights = torch.empty(len(logits), rule.chosen)
    experts = torch.empty(len(logits), rule.chosen, dtype=torch.int64)
    _native.choose_experts(
        *(matmul.instruction_set(), len(logits), rule.experts, rule.chosen, logits.data_ptr(), rule.scores),
        *(address(rule.bias), rule.groups, rule.kept, rule.best),
        *(rule.eps is not None, bits(rule.eps or 0.0), bits(rule.factor)),
        *(experts.data_ptr(), weights.data_ptr(), torch.get_num_threads()),
    )
    return weights, experts


class ExpertRows(NamedTuple):
    """A row for each expert that a token goes through, in the order of experts, and then rows for nobody."""

    ends: Tensor  # of each expert's rows, (experts,) int32
    experts: Tensor  # (rows,), counted from the first one that is here
    sources: Tensor  # the token of each row, (rows,)
    spots: Tensor  # where the rows of each token are, (tokens, chosen); -1: its expert is not here


def group(chosen: Tensor, num_experts: int, first: int = 0) -> ExpertRows:
    """Return where the rows of tokens that chose these experts, (tokens, chosen) int64, are to stand.

    So many experts are here, from the `first` one on.
    """
    ends = torch.empty(num_experts, dtype=torch.int32)
    experts, sources = (torch.empty(chosen.numel(), dtype=torch.int64) for _ in range(2))
    rows = ExpertRows(ends, experts, sources, torch.empty_like(chosen))
    numbers = *chosen.shape, num_experts, first
    _native.group_rows(*numbers, chosen.data_ptr(), *(part.data_ptr() for part in rows))
    return rows


def weighted_sum(x: Tensor, spots: Tensor, weights: Tensor) -> Tensor:
    """Return for each row of `spots` the sum of those rows of `x` with its weights, all contiguous.

    Negative spots are left out.
    """
    out = torch.empty(len(spots), x.shape[1])
    _native.weighted_sum(
        *(matmul.instruction_set(), *spots.shape, x.shape[1], x.data_ptr(), spots.data_ptr()),
        *(weights.data_ptr(), out.data_ptr(), torch.get_num_threads()),
    )
    return out
