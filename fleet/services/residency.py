"""Loads what the catalogue wants loaded: pinned models on their nodes, and replicas of models in use.

A pinned model makes room like any load. A replica takes free memory only: two models that evict each other's
replicas would never come to rest.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import timedelta

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from fleet import placement as placing
from fleet.models import ModelProfile, Operation, Placement
from fleet.operations import ACTIVE, OperationKind, OperationState
from fleet.placement import NodeFacts, Outlook
from fleet.services import lifecycle, placement_facts
from fleet.services.operations.choosing import NOBODY_YIELDS


def keep() -> int:
    """Ask for the loads that are missing, one per model at a time; return how many."""
    there: dict[str, set[str]] = defaultdict(set)
    residents = Placement.objects.filter(state__in=Placement.RESIDENT)
    for model, node in residents.values_list("model", "node__name"):
        there[model].add(node)
    resting = _resting()
    wanted = [profile for profile in _wanted() if profile.model_id not in resting]
    nodes = placement_facts.nodes() if wanted else []
    return sum(_bring(profile, there[profile.model_id], nodes) for profile in wanted)


def _wanted() -> list[ModelProfile]:
    return [profile for profile in ModelProfile.objects.all() if profile.pinned_on or profile.replicas > 1]


def _resting() -> set[str]:
    """Models that are being loaded, or whose load failed within the back-off."""
    since = timezone.now() - timedelta(seconds=settings.FAILURE_BACKOFF_S)
    loads = Operation.objects.filter(kind=OperationKind.LOAD)
    rows = loads.filter(Q(state__in=ACTIVE) | Q(state=OperationState.FAILED, finished_at__gte=since))
    return set(rows.values_list("model", flat=True))


def _bring(profile: ModelProfile, there: set[str], nodes: list[NodeFacts]) -> bool:
    open_nodes = {node.name for node in nodes if node.healthy and not node.cordoned}
    if missing := sorted(open_nodes.intersection(profile.pinned_on) - there):
        node = missing[0]
        lifecycle.load(profile.model_id, node, requested_by="residency", reason=f"pinned on {node}")
        return True
    if not there or len(there) >= profile.replicas:
        return False
    return _replicate(profile, len(there), nodes)


def _replicate(profile: ModelProfile, count: int, nodes: list[NodeFacts]) -> bool:
    need = replace(placement_facts.need_of(profile), priority=NOBODY_YIELDS)
    if placing.place(need, nodes, settings.EVICTION_STRATEGY).outlook is not Outlook.FITS:
        return False
    reason = f"{count} of {profile.replicas} replicas are loaded"
    lifecycle.load(profile.model_id, requested_by="residency", reason=reason, replica=True)
    return True
