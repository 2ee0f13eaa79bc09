"""A session's modes and configuration options, as the protocol lists them."""

from __future__ import annotations

from typing import Any

from helexa_acp.agent import modes
from helexa_acp.agent.modes import Mode
from helexa_acp.provider.endpoints import Endpoints, ModelChoice
from helexa_acp.provider.types import ModelDetails

DEFAULT_EFFORT = "default"


Described = dict[Mode, tuple[str, str]]  # the modes' names and descriptions


def mode_state(mode: Mode, described: Described) -> dict[str, Any]:
    return {"currentModeId": mode.value, "availableModes": modes.as_json(described)}


def config_options(
    endpoints: Endpoints, mode: dict[str, Any], choice: ModelChoice | None, effort: str | None
) -> list[dict[str, Any]]:
    """Return all options, the most important first; `mode` is that of the mode."""
    options = [mode]
    if choice is None:
        return options
    options.insert(0, _model_option(endpoints, choice))
    efforts = endpoints.info(choice).efforts
    if efforts:
        options.append(_effort_option(efforts, effort))
    return options


def mode_option(mode: Mode, described: Described) -> dict[str, Any]:
    options = [{"value": m.value, "name": name, "description": text} for m, (name, text) in described.items()]
    return _select("mode", "Mode", "mode", mode.value, options)


def _model_option(endpoints: Endpoints, choice: ModelChoice) -> dict[str, Any]:
    groups = []
    for endpoint in endpoints.config.endpoints:
        models = [(f"{endpoint.name}:{info.id}", info) for info in endpoints.models(endpoint)]
        if endpoint.name == choice.endpoint.name and choice.tag not in {tag for tag, _ in models}:
            models.insert(0, (choice.tag, ModelDetails(choice.model)))
        if models:
            options = [_model(tag, info, endpoint.context_window) for tag, info in models]
            groups.append(
                {"group": endpoint.name, "name": _group_name(endpoints, endpoint.name), "options": options}
            )
    return _select("model", "Model", "model", choice.tag, groups)


def _group_name(endpoints: Endpoints, name: str) -> str:
    return f"{name} (unreachable)" if name in endpoints.refresh_errors else name


def _model(tag: str, info: ModelDetails, window: int | None) -> dict[str, Any]:
    name = info.display_name or info.id
    option: dict[str, Any] = {"value": tag, "name": f"{name} ({info.state})" if info.state else name}
    window = window or info.context_window
    return {**option, "description": f"{window:,} tokens of context"} if window else option


def _effort_option(efforts: tuple[str, ...], effort: str | None) -> dict[str, Any]:
    values = [DEFAULT_EFFORT, *(e for e in efforts if e != DEFAULT_EFFORT)]
    options = [{"value": value, "name": value.capitalize()} for value in values]
    current = effort if effort in values else DEFAULT_EFFORT
    return _select("effort", "Reasoning effort", "thought_level", str(current), options)


def _select(
    id_: str, name: str, category: str, current: str, options: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "id": id_,
        "name": name,
        "category": category,
        "type": "select",
        "currentValue": current,
        "options": options,
    }
