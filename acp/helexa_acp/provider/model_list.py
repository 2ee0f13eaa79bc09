"""Parsing of the lists of models that servers send: `{data: […]}`, `{models: […]}` or a bare list."""

from __future__ import annotations

import re
from typing import Any

from helexa_acp.provider.lenient_json import as_dict, as_int, as_list, as_str
from helexa_acp.provider.types import ModelDetails

EFFORTS = ("low", "medium", "high")
MAX_MODELS = 2000

_CONTEXT_KEYS = (
    "context_length",
    "max_model_len",
    "context_window",
    "max_context_length",
    "max_input_tokens",
    "n_ctx",
)

# Vendors do not list reasoning efforts; models of these names are known to have them.
_THINKERS = re.compile(r"(?:^|/)(?:gpt-[5-9]|o[1-9](?:-|$)|gpt-oss|claude-(?:3-7|opus|sonnet|haiku-4|fable))")


def parse_models(value: Any) -> list[ModelDetails]:
    """Return the models that can complete, each once, with what the server tells of them."""
    items = value
    if not isinstance(value, list):
        items = as_dict(value).get("data") or as_dict(value).get("models")
    found: dict[str, ModelDetails] = {}
    for item in as_list(items)[:MAX_MODELS]:
        model = ModelDetails(item) if isinstance(item, str) else _model(as_dict(item))
        if model.id and not _only_embeds(item):
            found.setdefault(model.id, model)
    return list(found.values())


def _only_embeds(item: Any) -> bool:
    return as_list(as_dict(item).get("capabilities")) == ["embeddings"]


def _model(item: dict[str, Any]) -> ModelDetails:
    limit = as_dict(item.get("limit"))
    meta = as_dict(item.get("meta"))
    id_ = as_str(item.get("id")) or as_str(item.get("model")) or as_str(item.get("name"))
    contexts = [as_int(item.get(key)) for key in _CONTEXT_KEYS]
    contexts += [as_int(limit.get("context")), as_int(meta.get("n_ctx")), as_int(meta.get("n_ctx_train"))]
    return ModelDetails(
        id_,
        as_str(item.get("display_name")) or as_str(item.get("name")) or None,
        next(filter(None, contexts), None),
        as_int(item.get("max_output_tokens")) or as_int(limit.get("output")) or None,
        _efforts(id_, item),
        _images(item),
        _state(item),
    )


def _efforts(id_: str, item: dict[str, Any]) -> tuple[str, ...]:
    told = item.get("reasoning_efforts") or as_dict(item.get("reasoning")).get("efforts")
    if isinstance(told, list) and told:
        return tuple(effort for effort in told if isinstance(effort, str))
    parameters = as_list(item.get("supported_parameters"))
    if "reasoning" in parameters or "reasoning_effort" in parameters or _THINKERS.search(id_):
        return EFFORTS
    return ()


def _images(item: dict[str, Any]) -> bool | None:
    told = as_dict(item.get("architecture")).get("input_modalities") or item.get("input_modalities")
    if isinstance(told, list):
        return "image" in told
    capabilities = item.get("capabilities")
    if isinstance(capabilities, list) and capabilities:
        return bool({"vision", "image", "images"} & {c for c in capabilities if isinstance(c, str)})
    return None


def _state(item: dict[str, Any]) -> str | None:
    """Return whether the model is loaded, which cortex and a few others tell."""
    if state := as_str(item.get("state")):
        return {"loaded": "warm", "ready": "warm", "unloaded": "cold", "available": "cold"}.get(state, state)
    states = {as_str(as_dict(place).get("status")) for place in as_list(item.get("locations"))}
    if "loading" in states and not item.get("loaded"):
        return "loading"
    if not isinstance(item.get("loaded"), bool):
        return None
    return "warm" if item["loaded"] else "cold"
