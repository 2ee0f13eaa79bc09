"""Who used how much: tokens, requests and cost by key, model, node or day, from the hourly sums."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Literal, get_args

from django.db.models import QuerySet, Sum
from django.db.models.functions import TruncDate
from django.utils import timezone

from fleet.models import ModelProfile, UsageRollup

By = Literal["key", "model", "node", "day"]
CHOICES: tuple[By, ...] = get_args(By)
MILLION = 1_000_000
SUMS = ("requests", "errors", "prompt_tokens", "cached_tokens", "completion_tokens")


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

    def add(self, row: Mapping[str, Any], cost: float) -> None:
        self.requests += row["sum_requests"]
        self.errors += row["sum_errors"]
        self.prompt_tokens += row["sum_prompt_tokens"]
        self.cached_tokens += row["sum_cached_tokens"]
        self.completion_tokens += row["sum_completion_tokens"]
        self.cost += cost


@dataclass(slots=True)
class Report:
    """The use of the last `days` days: in all, by group, and by group and day; the most tokens first."""

    by: By
    days: list[date]
    total: Used = field(default_factory=Used)
    groups: dict[str, Used] = field(default_factory=dict)
    by_day: dict[tuple[date, str], Used] = field(default_factory=lambda: defaultdict(Used))

    def series(self, names: Iterable[str]) -> dict[str, list[int]]:
        """Return the tokens of each day, for each of those groups."""
        return {name: [self._on(day, name) for day in self.days] for name in names}

    def _on(self, day: date, name: str) -> int:
        used = self.by_day.get((day, name))
        return used.tokens if used else 0


def report(by: By, days: int, *, key: str | None = None) -> Report:
    """Return the use of the last `days` days, today included; of one key where its name is given."""
    today = timezone.now().date()
    made = Report(by, [today - timedelta(days=back) for back in reversed(range(days))])
    prices = {profile.model_id: profile for profile in ModelProfile.objects.all()}
    groups: dict[str, Used] = defaultdict(Used)
    for row in _rows(by, made.days[0], key):
        name = str(row["day"]) if by == "day" else row[by] or "–"
        cost = _cost(row, prices.get(row["model"]))
        for used in (made.total, groups[name], made.by_day[row["day"], name]):
            used.add(row, cost)
    most_first = sorted(groups.items(), key=lambda item: item[0] if by == "day" else -item[1].tokens)
    made.groups = dict(most_first)
    return made


def _rows(by: By, since: date, key: str | None) -> QuerySet:
    begin = datetime.combine(since, time.min, tzinfo=UTC)
    rollups = UsageRollup.objects.filter(hour__gte=begin)
    if key is not None:
        rollups = rollups.filter(key=key)
    names = {"day", "model"} | ({by} if by != "day" else set())
    sums = {f"sum_{name}": Sum(name) for name in SUMS}
    return rollups.order_by().annotate(day=TruncDate("hour")).values(*sorted(names)).annotate(**sums)


def _cost(row: Mapping[str, Any], price: ModelProfile | None) -> float:
    """Cached tokens cost what they cost as input where they have no price of their own."""
    if price is None:
        return 0.0
    into, out = price.cost_input or 0.0, price.cost_output or 0.0
    cached = into if price.cost_cache_read is None else price.cost_cache_read
    fresh = row["sum_prompt_tokens"] - row["sum_cached_tokens"]
    spent = fresh * into + row["sum_cached_tokens"] * cached + row["sum_completion_tokens"] * out
    return float(spent) / MILLION
