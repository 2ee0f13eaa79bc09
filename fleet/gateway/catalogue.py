"""`GET /v1/models` and `/health`: the snapshot in the shape clients read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fleet.snapshot import FleetSnapshot, ModelView, NodeView

CREATED = 1_767_225_600  # the list has no creation dates; clients want an integer

_RANK = {"loaded": 0, "loading": 1, "unloading": 2, "failed": 3}


def list_models(snapshot: FleetSnapshot) -> list[dict[str, Any]]:
    """Every model that is loaded or could be, then every alias; by name, so that the order is stable."""
    ids = set(snapshot.config.profiles)
    for node in snapshot.nodes.values():
        ids |= set(node.models)
    models = [describe(snapshot, model) for model in sorted(ids)]
    aliases = [
        describe(snapshot, target) | {"id": alias, "alias_of": target}
        for alias, target in sorted(snapshot.config.aliases.items())
        if target in ids
    ]
    return models + aliases


def describe(snapshot: FleetSnapshot, model: str) -> dict[str, Any]:
    """One (resolved) model."""
    placements = [(node, view) for node, view in snapshot.placements(model) if node.healthy]
    profile = snapshot.config.profiles.get(model)
    contexts = [view.context for _, view in placements if view.context]
    context = min(contexts) if contexts else profile and profile.context
    return {
        "id": model,
        "object": "model",
        "created": CREATED,
        "owned_by": "cortex",
        "state": state_of(placements),
        "nodes": [_node(node, view) for node, view in placements],
        "context_length": context,
        "max_model_len": context,
        "capabilities": sorted({c for _, view in placements for c in view.capabilities})
        or list(profile.capabilities if profile else ()),
        "pricing": dict(profile.cost) if profile and profile.cost else None,
    }


def state_of(placements: list[tuple[NodeView, ModelView]]) -> str:
    """The best state any node reports, or `available`: a request will have it loaded."""
    states = sorted((view.state for _, view in placements), key=lambda state: _RANK.get(state, 9))
    return states[0] if states and states[0] != "failed" else "available"


def _node(node: NodeView, view: ModelView) -> dict[str, Any]:
    return {
        "name": node.name,
        "state": view.state,
        "memory_mb": view.memory_mb,
        "progress": view.progress,
        "error": view.error,
    }


def health(snapshot: FleetSnapshot, missing: list[str], breakers: Mapping[str, str]) -> dict[str, Any]:
    """ok, impaired (a node or a part of the control plane is away) or degraded (no node answers)."""
    healthy = sum(node.healthy for node in snapshot.nodes.values())
    total = len(snapshot.nodes)
    status = "degraded" if not healthy else "impaired" if missing or healthy < total else "ok"
    away = [
        {"node": node.name, "reason": node.reason}
        for _, node in sorted(snapshot.nodes.items())
        if not node.healthy
    ]
    return {
        "status": status,
        "nodes": {"healthy": healthy, "total": total},
        "away": away,
        "breakers": {node: state for node, state in sorted(breakers.items()) if state != "closed"},
        "missing": missing,
    }
