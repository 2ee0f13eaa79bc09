"""Who used how much: tokens, requests and cost by key, model, node or day, from the daily sums."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Literal, get_args

from django.db.models import Q, QuerySet, Sum
from django.utils import timezone

from fleet.models import ModelProfile, UsageDay
from fleet.services.usage import DAY_SUMS

By = Literal["key", "model", "node", "day"]
CHOICES: tuple[By, ...] = get_args(By)
MILLION = 1_000_000
NOBODY = "–"  # the group of requests that had no node, or no key
_FREE = Q(cost_input=None, cost_output=None, cost_cache_read=None)


@dataclass(slots=True)
class Used:
    """What was used; `cost` is in US dollars, for the models that have a price."""

    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def add(self, other: Used) -> None:
        self.requests += other.requests
        self.errors += other.errors
        self.prompt_tokens += other.prompt_tokens
        self.cached_tokens += other.cached_tokens
        self.completion_tokens += other.completion_tokens
        self.cost += other.cost


@dataclass(frozen=True, slots=True)
class Report:
    """The use of `days`, of one key or of all: by group, the most tokens first (days in their order)."""

    by: By
    days: list[date]
    key: str | None
    groups: dict[str, Used]

    @property
    def total(self) -> Used:
        total = Used()
        for used in self.groups.values():
            total.add(used)
        return total

    def series(self, names: Sequence[str]) -> dict[str, list[int]]:
        """Return the tokens of each day, for each of those groups."""
        stored = ["" if name == NOBODY else name for name in names]
        rows = _rows(self.days[0], self.key).filter(**{f"{self.by}__in": stored}).values("day", self.by)
        summed = rows.annotate(tokens=Sum("prompt_tokens") + Sum("completion_tokens"))
        tokens = {(row["day"], row[self.by] or NOBODY): row["tokens"] for row in summed}
        return {name: [tokens.get((day, name), 0) for day in self.days] for name in names}

    def lines(self) -> list[tuple[date, str, Used]]:
        """Return the use of each day and group, in their order."""
        used = _used(_rows(self.days[0], self.key), "day", self.by)
        return [(day, str(name), used[day, name]) for day, name in sorted(used)]


def report(by: By, days: int, *, key: str | None = None) -> Report:
    """Return the use of the last `days` days, today included; of one key where its name is given."""
    today = timezone.now().date()
    spanned = [today - timedelta(days=back) for back in reversed(range(days))]
    used = _used(_rows(spanned[0], key), by)
    groups = sorted(used.items(), key=lambda item: item[0] if by == "day" else -item[1].tokens)
    return Report(by, spanned, key, {str(name): each for (name,), each in groups})


def _rows(since: date, key: str | None) -> QuerySet:
    rows = UsageDay.objects.order_by().filter(day__gte=since)
    return rows if key is None else rows.filter(key=key)


def _used(rows: QuerySet, *names: str) -> dict[tuple[Any, ...], Used]:
    """Return what the rows come to, by the values of those columns."""
    sums = {f"sum_{name}": Sum(name) for name in DAY_SUMS}
    groups: dict[tuple[Any, ...], Used] = defaultdict(Used)  # what the second query finds may be newer
    for row in rows.values(*names).annotate(**sums):
        groups[_group(row, names)] = Used(**{name: row[f"sum_{name}"] for name in DAY_SUMS})
    prices = {profile.model_id: profile for profile in ModelProfile.objects.exclude(_FREE)}
    priced = rows.filter(model__in=prices).values(*sorted({*names, "model"})).annotate(**sums)
    for row in priced:
        groups[_group(row, names)].cost += _cost(row, prices[row["model"]])
    return groups


def _group(row: Mapping[str, Any], names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(row[name] or NOBODY for name in names)


def _cost(row: Mapping[str, Any], price: ModelProfile) -> float:
    """Cached tokens cost what they cost as input where they have no price of their own."""
    into, out = price.cost_input or 0.0, price.cost_output or 0.0
    cached = into if price.cost_cache_read is None else price.cost_cache_read
    fresh = row["sum_prompt_tokens"] - row["sum_cached_tokens"]
    spent = fresh * into + row["sum_cached_tokens"] * cached + row["sum_completion_tokens"] * out
    return float(spent) / MILLION
