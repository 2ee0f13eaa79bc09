"""The slash commands `/budget` and `/cost`."""

from __future__ import annotations

import re

from helexa_acp.agent.session import Session
from helexa_acp.cancellation import CancelToken
from helexa_acp.storage.records import AssistantSaid, Budgeted, Spent

HINT = "500k tokens | 2.50 USD | off"

_AMOUNT = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*([kKmM]?)\s*(tokens|[A-Z]{3})?")
_FACTORS = {"": 1, "k": 1_000, "m": 1_000_000}


async def budget(session: Session, argument: str, _: CancelToken) -> None:
    if argument == "off":
        session.keep(Budgeted())
    elif argument:
        chosen = parse(argument)
        if chosen is None:
            session.say(f"Not changed: {argument!r} is no budget. Write {HINT}.")
            return
        session.keep(chosen)
    session.say(f"This session has used {_used(session)}. {_limits(session)}")


def parse(argument: str) -> Budgeted | None:
    """Return the limits that an argument names, or None."""
    match = _AMOUNT.fullmatch(argument.strip())
    if match is None or float(match[1]) == 0:
        return None
    amount, unit = float(match[1]) * _FACTORS[match[2].lower()], match[3] or "tokens"
    return Budgeted(max(1, round(amount))) if unit == "tokens" else Budgeted(0, {unit: amount})


async def cost(session: Session, _: str, __: CancelToken) -> None:
    records = session.transcript.records
    usages = [record.usage for record in records if isinstance(record, AssistantSaid | Spent)]
    prompt = sum(usage.get("prompt", 0) for usage in usages)
    completion = sum(usage.get("completion", 0) for usage in usages)
    costs = ", ".join(f"{amount:.4f} {currency}" for currency, amount in session.transcript.cost.items())
    estimated = " (in part estimated)" if any("estimated" in usage for usage in usages) else ""
    session.say(
        f"{len(usages)} requests, {prompt:,} tokens in, {completion:,} tokens out{estimated}. "
        f"Cost: {costs or 'unknown, the endpoints have no price'}. "
        f"In context now: {session.transcript.used_tokens:,} tokens. {_limits(session)}"
        + "".join(f"\n\n{line}" for line in _rate_limits(session))
    )


def _used(session: Session) -> str:
    spent = session.transcript
    return ", ".join(
        [f"{spent.num_tokens:,} tokens", *(f"{amount:.4f} {unit}" for unit, amount in spent.cost.items())]
    )


def _limits(session: Session) -> str:
    limits = session.budget.limits
    words = [f"{limits.tokens:,} tokens"] if limits.tokens else []
    words += [f"{amount:.4g} {unit}" for unit, amount in limits.cost.items()]
    return f"It asks at {' and '.join(words)} whether to go on." if words else "It has no budget."


def _rate_limits(session: Session) -> list[str]:
    endpoints = session.endpoints
    return [
        f"{endpoint.name}: {limit}."
        for endpoint in endpoints.config.endpoints
        for limit in endpoints.provider(endpoint).rate_limits
    ]
