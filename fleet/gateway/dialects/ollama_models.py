"""The fleet's models as Ollama lists and shows them."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

from fleet.gateway.dialects import model_list
from fleet.gateway.dialects.ollama import known_name
from fleet.snapshot import FleetSnapshot
from neuron.wire import ApiError

API_VERSION = "0.13.0"  # the Ollama whose API this is: clients compare it with what they need

Json = dict[str, Any]

_MODIFIED = datetime.fromtimestamp(model_list.CREATED, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
_NEVER = "9999-12-31T23:59:59Z"  # no time ends a model's stay
_MIB = 1 << 20

# Ollama's names of what models can do, by the fleet's.
_CAPABILITIES = {
    "chat": "completion",
    "completions": "completion",
    "tools": "tools",
    "vision": "vision",
    "reasoning": "thinking",
    "embeddings": "embedding",
}


def tags(snapshot: FleetSnapshot) -> Json:
    """The models that are loaded or can be, and the aliases."""
    return {"models": [_entry(model) for model in model_list.list_models(snapshot)]}


def running(snapshot: FleetSnapshot) -> Json:
    """The models that are loaded."""
    loaded = [
        model for model in model_list.list_models(snapshot) if model["loaded"] and not model["alias_of"]
    ]
    return {"models": [_running(model) for model in loaded]}


def show(snapshot: FleetSnapshot, name: str) -> Json:
    """One model, by its own name or an alias. Raises `ApiError` 404."""
    known = known_name(snapshot, name)
    if not snapshot.knows(snapshot.resolve(known)):
        message = f"The model '{name}' does not exist; GET /api/tags lists those that do."
        raise ApiError(404, "model_not_found", message, param="model")
    model = model_list.describe(snapshot, known)
    info: Json = {"general.architecture": "cortex", "general.basename": known}
    if model["context_length"]:
        info["cortex.context_length"] = model["context_length"]
    return {
        "modelfile": "",
        "parameters": "",
        "template": "",
        "details": _details(model),
        "model_info": info,
        "capabilities": _capabilities(model),
        "modified_at": _MODIFIED,
    }


def _entry(model: Json) -> Json:
    return {
        "name": model["id"],
        "model": model["id"],
        "modified_at": _MODIFIED,
        "size": _size(model),
        "digest": hashlib.sha256((model["alias_of"] or model["id"]).encode()).hexdigest(),
        "details": _details(model),
        "capabilities": _capabilities(model),
    }


def _running(model: Json) -> Json:
    size = _size(model)
    more = {"expires_at": _NEVER, "size_vram": size, "context_length": model["context_length"] or 0}
    return {**_entry(model), **more}


def _size(model: Json) -> int:
    """Bytes that the model takes on one node; 0 where none has it."""
    return max((node["memory_mb"] or 0 for node in model["nodes"]), default=0) * _MIB


def _details(model: Json) -> Json:
    """What Ollama says of a model's file, of which clients see here how its weights are stored."""
    return {
        "parent_model": "",
        "format": "",
        "family": "",
        "families": [],
        "parameter_size": "",
        "quantization_level": next((node["format"] for node in model["nodes"] if node["format"]), "").upper(),
    }


def _capabilities(model: Json) -> list[str]:
    return sorted({_CAPABILITIES[name] for name in model["capabilities"] if name in _CAPABILITIES})
