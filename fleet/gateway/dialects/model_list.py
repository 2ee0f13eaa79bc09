"""`GET /v1/models` and `/health`: the snapshot in the shapes that clients read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from fleet.gateway.dialects.base import Call
from fleet.snapshot import FleetSnapshot, ModelOffer, ModelView, NodeView, ProfileView
from neuron.wire import ApiError

CREATED = 1_767_225_600  # clients expect an integer; models have no creation date

# Anthropic's paging.
DEFAULT_PAGE = 20
MAX_PAGE = 1000

_RANK = {"loaded": 0, "loading": 1, "asleep": 2, "unloading": 3, "failed": 4}


def list_models(snapshot: FleetSnapshot) -> list[dict[str, Any]]:
    """Every model that is loaded or can be, then every alias, each sorted by name."""
    ids = set(snapshot.configuration.profiles)
    for node in snapshot.nodes.values():
        ids |= set(node.models)
    models = [describe(snapshot, model) for model in sorted(ids)]
    aliases = [
        describe(snapshot, alias)
        for alias, target in sorted(snapshot.configuration.aliases.items())
        if target in ids and alias not in ids
    ]
    return models + aliases


def describe(snapshot: FleetSnapshot, name: str) -> dict[str, Any]:
    """One model, by its own name or an alias, as its profile and its nodes describe it."""
    model = snapshot.resolve(name)
    placements = [(node, view) for node, view in snapshot.placements(model) if node.healthy]
    profile = snapshot.configuration.profiles.get(model, ProfileView(model))
    context = _tightest(profile, placements)
    cost = dict(profile.cost) or None
    offer = snapshot.offer(model)
    return {
        "id": name,
        "object": "model",
        "created": CREATED,
        "owned_by": "cortex",
        "alias_of": model if name != model else None,
        "aliases": sorted(
            alias for alias, target in snapshot.configuration.aliases.items() if target == model
        ),
        "state": state_of(placements),
        "loaded": any(view.state == "loaded" for _, view in placements),
        "nodes": [_node(node, view) for node, view in placements],
        "context_length": context,
        "max_model_len": context,
        "max_output_tokens": profile.output,
        "limit": {"context": context, "output": profile.output},
        "capabilities": list(offer.capabilities) if offer else [],
        "cost": cost,
        "pricing": cost,
    }


def _tightest(profile: ProfileView, placements: list[tuple[NodeView, ModelView]]) -> int | None:
    """The longest context, in tokens, that the operator and every node allow; None when nobody says."""
    said = [profile.context, *(view.context for _, view in placements)]
    return min((context for context in said if context), default=None)


def require_capability(offer: ModelOffer, call: Call) -> None:
    """Raises `ApiError` 400 when the model is known to lack the capability that the call needs."""
    can = offer.capabilities
    if not can or call.needs in can or _does(call.needs, can):
        return
    message = f"The model '{call.model}' does not do {call.needs}; it does {', '.join(can)}."
    raise ApiError(400, "wrong_modality", message, param="model")


def _does(needed: str, can: Collection[str]) -> bool:
    """Whether a model with capabilities `can` does `needed`. Any model that generates text completes it."""
    return "embeddings" not in can or "chat" in can if needed == "completions" else needed in can


def anthropic_page(
    models: list[dict[str, Any]], *, limit: str | None, after: str | None, before: str | None
) -> dict[str, Any]:
    """A page of the list in Anthropic's shape. Raises `ApiError` 400 for a bad paging parameter."""
    ids = [model["id"] for model in models]
    start = _place(ids, after, "after_id") + 1 if after else 0
    stop = _place(ids, before, "before_id") if before else len(ids)
    size = _limit(limit)
    first = max(start, stop - size) if before else start
    page = models[first : min(stop, first + size)]
    return {
        "data": [anthropic_model(model) for model in page],
        "has_more": first > start if before else first + size < stop,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
    }


def anthropic_model(model: dict[str, Any]) -> dict[str, Any]:
    created = datetime.fromtimestamp(model["created"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": "model", "id": model["id"], "display_name": model["id"], "created_at": created}


def _place(ids: list[str], ident: str, param: str) -> int:
    if ident not in ids:
        raise ApiError(400, "invalid_value", f"{param}: there is no model {ident!r}.", param=param)
    return ids.index(ident)


def _limit(given: str | None) -> int:
    if given is None:
        return DEFAULT_PAGE
    if not given.isascii() or not given.isdigit() or not 1 <= int(given[:9]) <= MAX_PAGE:
        raise ApiError(400, "invalid_value", f"limit: from 1 to {MAX_PAGE}.", param="limit")
    return int(given)


def state_of(placements: list[tuple[NodeView, ModelView]]) -> str:
    """The best state that a node reports; `available` where a request would load the model."""
    states = sorted((view.state for _, view in placements), key=lambda state: _RANK.get(state, 9))
    return states[0] if states and states[0] != "failed" else "available"


def _node(node: NodeView, view: ModelView) -> dict[str, Any]:
    return {
        "name": node.name,
        "state": view.state,
        "memory_mb": view.memory_mb,
        "format": view.format,
        "bits_per_weight": view.bits_per_weight,
        "progress": view.progress,
        "error": view.error,
    }


def health(snapshot: FleetSnapshot, missing: list[str], breakers: Mapping[str, str]) -> dict[str, Any]:
    """The health page: ok, impaired (something is away) or degraded (no node answers)."""
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
