"""All that is known of one model: where it is and why, what it takes, how quick it was, what failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db.models import Sum
from django.utils import timezone

from fleet.models import Alias, ModelProfile, Operation, Placement, RequestMetric, UsageRollup
from fleet.operations import OperationKind, OperationState

SPANS = {"last day": timedelta(days=1), "last week": timedelta(days=7), "last 30 days": timedelta(days=30)}
FAILURES = 5
RECENT = 200  # loads among which those are looked for that brought it where it is
_SUMMED = (
    "requests",
    "errors",
    "prompt_tokens",
    "completion_tokens",
    "ttft_s",
    "timed",
    "generated",
    "generated_s",
)
_PARTS = {"weights": "weights", "kv": "keys and values", "states": "states"}


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """A model on a node; `why` is the last load that brought it there, if its row is still kept."""

    row: Placement
    why: Operation | None

    @property
    def parts(self) -> list[tuple[str, int]]:
        """What its memory is for, MiB, the largest first; the rest of it is told as such."""
        told = {_PARTS.get(name, name): mb for name, mb in self.row.memory_parts.items()}
        rest = (self.row.memory_mb or 0) - sum(told.values())
        if told and rest > 0:
            told["other"] = rest
        return sorted(told.items(), key=lambda part: -part[1])


@dataclass(frozen=True, slots=True)
class Speed:
    """What a model did in a span of time, from hourly sums."""

    span: str
    requests: int = 0
    errors: int = 0
    tokens: int = 0
    first_token_s: float | None = None
    tokens_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class KnownModel:
    """What the page of a model shows."""

    name: str
    profile: ModelProfile | None
    aliases: list[str]
    places: list[ModelPlace]
    speeds: list[Speed]
    failed_operations: list[Operation]
    failed_requests: list[RequestMetric]

    @property
    def is_known(self) -> bool:
        return self.profile is not None or bool(self.places)

    @property
    def traits(self) -> dict[str, str]:
        """What its chat template takes, as the last node found that loaded it."""
        told = (place.row for place in self.places if place.row.text)
        newest = max(told, key=lambda row: row.changed_at, default=None)
        return dict(newest.text) if newest else {}


def gather(name: str) -> KnownModel:
    """Return what is known of the model; nothing of one that was never heard of."""
    rows = Placement.objects.filter(model=name).select_related("node").order_by("node__name")
    loads = Operation.objects.filter(kind=OperationKind.LOAD, model=name)
    why: dict[str, Operation] = {}
    for load in loads.filter(state=OperationState.SUCCEEDED)[:RECENT]:
        why.setdefault(load.node, load)
    failed = loads.filter(state=OperationState.FAILED)
    return KnownModel(
        name,
        ModelProfile.objects.filter(model_id=name).first(),
        list(Alias.objects.filter(target=name).values_list("name", flat=True)),
        [ModelPlace(row, why.get(row.node.name)) for row in rows],
        [speeds([name], span).get(name) or Speed(span) for span in SPANS],
        list(failed[:FAILURES]),
        list(RequestMetric.objects.filter(model=name, outcome="error")[:FAILURES]),
    )


def speeds(names: Sequence[str], span: str = "last day") -> dict[str, Speed]:
    """Return what each of the models did in a span, for those that did anything."""
    since = timezone.now() - SPANS[span]
    hours = UsageRollup.objects.filter(model__in=names, hour__gte=since).order_by()
    rows = hours.values("model").annotate(**{f"sum_{each}": Sum(each) for each in _SUMMED})
    return {row["model"]: _speed(span, row) for row in rows}


def _speed(span: str, row: Mapping[str, Any]) -> Speed:
    total = {each: row[f"sum_{each}"] or 0 for each in _SUMMED}
    return Speed(
        span,
        total["requests"],
        total["errors"],
        total["prompt_tokens"] + total["completion_tokens"],
        total["ttft_s"] / total["timed"] if total["timed"] else None,
        total["generated"] / total["generated_s"] if total["generated_s"] else None,
    )
