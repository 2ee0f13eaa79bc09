"""The actions of the built-in slash commands."""

from __future__ import annotations

from helexa_acp.agent import compaction
from helexa_acp.agent.context_budget import prompt_budget
from helexa_acp.agent.modes import Mode
from helexa_acp.agent.session import Session
from helexa_acp.cancellation import CancelToken
from helexa_acp.provider.endpoints import UnknownModelError
from helexa_acp.v1 import updates

INIT = """\
Look at this project: its layout, how it is built, tested and checked, and its conventions. Then write
AGENTS.md at the root (or improve the one there): what a coding agent must know to work here, in at most
60 lines, nothing that is obvious.
"""


async def expand_init(_: Session, __: str) -> str:
    return INIT


async def compact(session: Session, _: str, cancel: CancelToken) -> None:
    choice = session.choice
    if choice is None:
        session.say("No model is known that could write a summary.")
        return
    window = session.window(choice) or compaction.UNKNOWN_WINDOW_TOKENS
    # Below what is in use, so that there is something to summarise even if everything still fits.
    target = min(prompt_budget(window, choice.endpoint.max_tokens), session.transcript.used_tokens or window)
    if not await compaction.summarise(session, choice, target, cancel):
        session.say("There is nothing to compact, or the model gave no summary.")


async def model(session: Session, selector: str, _: CancelToken) -> None:
    if not selector:
        lines = [
            f"- `{endpoint.name}:{info.id}`" + (f" ({info.state})" if info.state else "")
            for endpoint in session.endpoints.config.endpoints
            for info in session.endpoints.models(endpoint)
        ]
        current = session.choice
        session.say(f"Using `{current.tag if current else 'none'}`.\n\n" + "\n".join(lines))
        return
    try:
        choice = session.choose_model(selector)
    except UnknownModelError as error:
        session.say(f"Not changed: {error}.")
        return
    session.show_options()
    session.say(f"Using `{choice.tag}`.")


async def plan(session: Session, argument: str, _: CancelToken) -> None:
    """Switch plan mode; `expand_plan` handles an argument that says what to plan."""
    leave = argument == "off" or session.mode is Mode.PLAN
    _set_mode(session, Mode.DEFAULT if leave else Mode.PLAN)
    session.say(f"Mode: {session.mode.value}. The plan file is `{session.plan_path}`.")


async def expand_plan(session: Session, argument: str) -> str | None:
    """Return what to plan, in plan mode, or None if the argument is `on`, `off` or empty."""
    if argument in {"", "on", "off"}:
        return None
    _set_mode(session, Mode.PLAN)
    return argument


def _set_mode(session: Session, mode: Mode) -> None:
    session.choose_mode(mode)
    session.show(updates.mode(mode.value))
    session.show_options()
