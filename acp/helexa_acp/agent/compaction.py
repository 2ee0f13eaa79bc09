"""Compaction: replaces the older part of a conversation by a summary that its model writes."""

from __future__ import annotations

import logging
from contextlib import aclosing
from dataclasses import replace

from helexa_acp.agent import context_budget
from helexa_acp.agent.reply import new_id, spent_on
from helexa_acp.agent.session import Session
from helexa_acp.cancellation import CancelToken
from helexa_acp.provider.endpoints import ModelChoice
from helexa_acp.provider.errors import ProviderError
from helexa_acp.provider.failover import adapt_request
from helexa_acp.provider.types import CompletionRequest, Message, Role, TextDelta, Usage
from helexa_acp.storage.records import Compacted
from helexa_acp.v1 import updates

log = logging.getLogger(__name__)

COUNT_FROM = 0.6  # of the budget; below this share an estimate is good enough
UNKNOWN_WINDOW_TOKENS = 16_000  # assumed if an endpoint refuses a prompt as too long and tells no limit


async def fit_to_window(
    session: Session, choice: ModelChoice, request: CompletionRequest, cancel: CancelToken
) -> CompletionRequest:
    """Return the request, shortened as far as possible if it does not fit into the model's window."""
    window = session.window(choice)
    if window is None:
        return request
    budget = context_budget.prompt_budget(window, choice.endpoint.max_tokens)
    used = await count_prompt_tokens(session, choice, request, budget)
    if used <= budget:
        return request
    if await summarise(session, choice, budget, cancel):
        request = replace(request, messages=(request.messages[0], *session.transcript.view()))
        used = await count_prompt_tokens(session, choice, request, budget)
    if used <= budget:
        return request
    scale = used / max(1, context_budget.estimate_request(request))
    log.warning("session %s: leaving out old results to fit %d tokens into %d", session.id, used, budget)
    return replace(request, messages=tuple(context_budget.elide(request.messages, budget, scale)))


async def count_prompt_tokens(
    session: Session, choice: ModelChoice, request: CompletionRequest, budget: int
) -> int:
    """Return the length of the prompt in tokens.

    It is estimated if it is far below the budget, if counting would load a cold model, or if the endpoint
    cannot count.
    """
    estimated = context_budget.estimate_request(request)
    if estimated < COUNT_FROM * budget or session.endpoints.info(choice).state in {"cold", "loading"}:
        return estimated
    exact = await session.endpoints.provider(choice.endpoint).count_tokens(
        adapt_request(session.endpoints, choice, request)
    )
    return estimated if exact is None else exact


async def summarise(session: Session, choice: ModelChoice, budget: int, cancel: CancelToken) -> bool:
    """Replace the older part of the conversation by a summary. Return whether that was done."""
    view = session.transcript.view()
    cut = context_budget.cut_for_summary(view, budget)
    has_summary = session.transcript.summary is not None
    if cut <= has_summary:  # nothing but a previous summary stands before the cut
        return False
    id_ = new_id("compaction")
    session.show(updates.compaction(id_, "in_progress"))
    request = context_budget.summary_request(choice.model, view[:cut], budget)
    try:
        summary = await _ask(session, choice, request, cancel, id_)
    except ProviderError as error:
        log.warning("session %s: no summary: %s", session.id, error)
        session.show(updates.compaction(id_, "failed", error=str(error)))
        return False
    if cancel.cancelled or not summary.strip():
        session.show(updates.compaction(id_, "cancelled" if cancel.cancelled else "failed"))
        return False
    # The view's first message, a previous summary, stands for the history before `keep_from`.
    base = session.transcript.keep_from - 1 if has_summary else 0
    saved = context_budget.estimate(view[:cut]) - context_budget.estimate([Message.of(Role.USER, summary)])
    session.keep(Compacted(summary, base + cut, id_, max(0, session.transcript.used_tokens - saved)))
    session.show(updates.compaction(id_, "completed", summary=summary))
    session.show_usage()
    if not session.client.has_compaction:
        session.say("*The older part of this conversation is now a summary for the model.*\n\n")
    return True


async def _ask(
    session: Session, choice: ModelChoice, request: CompletionRequest, cancel: CancelToken, id_: str
) -> str:
    provider = session.endpoints.provider(choice.endpoint)
    pieces: list[str] = []
    async with aclosing(
        provider.complete(adapt_request(session.endpoints, choice, request), cancel)
    ) as events:
        async for event in events:
            match event:
                case TextDelta(text):
                    pieces.append(text)
                    session.show(updates.summary_chunk(id_, text))
                case Usage(stats):
                    session.keep(spent_on(session.endpoints.config, choice.tag, stats))
    return "".join(pieces)
