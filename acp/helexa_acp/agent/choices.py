"""The methods by which a client chooses a session's mode, model and effort. They raise RpcError."""

from __future__ import annotations

from typing import Any

from helexa_acp.agent import options
from helexa_acp.agent.modes import Mode
from helexa_acp.agent.session import Session
from helexa_acp.provider.endpoints import UnknownModelError
from helexa_acp.rpc.connection import current_request
from helexa_acp.v1 import params as check
from helexa_acp.v1 import updates

Params = dict[str, Any]


def set_mode(session: Session, params: Params) -> Params:
    _choose_mode(session, check.string(params, "modeId"), "modeId")
    current_request().after.append(session.show_options)
    return {}


def set_model(session: Session, params: Params) -> Params:
    _choose_model(session, check.string(params, "modelId"), "modelId")
    current_request().after += [session.show_options, session.show_usage]
    return {}


def set_config_option(session: Session, params: Params) -> Params:
    id_ = check.string(params, "configId")
    value = check.string(params, "value")
    match id_:
        case "mode":
            _choose_mode(session, value, "value")
            current_request().after.append(lambda: session.show(updates.mode(session.mode.value)))
        case "model":
            _choose_model(session, value, "value")
        case "effort":
            _choose_effort(session, value)
        case _:
            raise check.invalid(f"configId: there is no option {id_!r}")
    current_request().after.append(session.show_usage)
    return {"configOptions": session.options()}


def _choose_mode(session: Session, mode: str, field: str) -> None:
    if mode not in list(Mode):
        raise check.invalid(f"{field}: there is no mode {mode!r}; the modes are {', '.join(Mode)}")
    session.choose_mode(Mode(mode))


def _choose_model(session: Session, selector: str, field: str) -> None:
    try:
        session.choose_model(selector)
    except UnknownModelError as error:
        raise check.invalid(f"{field}: {error}") from error


def _choose_effort(session: Session, effort: str) -> None:
    choice = session.choice
    efforts = session.endpoints.info(choice).efforts if choice else ()
    if effort not in {options.DEFAULT_EFFORT, *efforts}:
        raise check.invalid(f"value: this model has no effort {effort!r}")
    session.choose_effort(effort)
