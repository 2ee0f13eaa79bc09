"""Has models read ahead that a key is in the habit of using at an hour.

Only for the keys that `lifecycle.read_ahead_keys` names: what it shows of a key is which models it used when.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

from django.conf import settings
from django.utils import timezone

from fleet import placement as placing
from fleet.models import Placement, UsageRollup
from fleet.placement import Outlook
from fleet.services import placement_facts
from fleet.services.operations.specs import read_ahead

DAYS = 7
OFTEN = 3  # of these days make a habit
LEAD = timedelta(minutes=10)  # before the hour
_IN_MEMORY = (*Placement.RESIDENT, Placement.State.ASLEEP)


def follow(now: datetime | None = None) -> int:
    """Have the files read that the next hour will want, shortly before it; return of how many models."""
    now = now or timezone.now()
    hour = (now + LEAD).replace(minute=0, second=0, microsecond=0)
    if hour <= now or not settings.READ_AHEAD_KEYS:
        return 0
    in_memory = Placement.objects.filter(state__in=_IN_MEMORY).values_list("model", flat=True)
    wanted = sorted(_habits(hour, settings.READ_AHEAD_KEYS) - set(in_memory))
    nodes = placement_facts.nodes() if wanted else []
    for model in wanted:
        decision = placing.place(placement_facts.need(model), nodes, settings.EVICTION_STRATEGY)
        if decision.outlook in {Outlook.FITS, Outlook.EVICTS} | placing.PASSING:
            read_ahead(model, decision.verdicts[0])
    return len(wanted)


def _habits(hour: datetime, keys: Sequence[str]) -> set[str]:
    """The models that one of these keys used in this hour of several of the last days."""
    hours = [hour - timedelta(days=day) for day in range(1, DAYS + 1)]
    days: dict[tuple[str, str], set[datetime]] = defaultdict(set)
    rows = UsageRollup.objects.filter(hour__in=hours, requests__gt=0)
    for key, model, used in rows.values_list("key", "model", "hour"):
        if any(fnmatchcase(key, pattern) for pattern in keys):
            days[key, model].add(used)
    return {model for (_, model), used in days.items() if len(used) >= OFTEN}
