"""One completion, from the chosen model or from a fallback of its endpoint.

A fallback is asked only if no part of an answer has been shown. A `Switched` event announces it, before its
own first event.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from helexa_acp.cancellation import CancelToken
from helexa_acp.provider.endpoints import Endpoints, ModelChoice
from helexa_acp.provider.errors import ProviderError
from helexa_acp.provider.types import CompletionEvent, CompletionRequest, ProgressUpdate


@dataclass(frozen=True, slots=True)
class Switched:
    choice: ModelChoice
    reason: str


def candidates(endpoints: Endpoints, choice: ModelChoice) -> list[ModelChoice]:
    """Return the choice and its endpoint's fallbacks, in the order in which they are asked."""
    chain = {choice.tag: choice}
    for selector in choice.endpoint.fallback:
        other = endpoints.resolve(selector)
        chain.setdefault(other.tag, other)
    return list(chain.values())


async def complete(
    endpoints: Endpoints, choice: ModelChoice, request: CompletionRequest, cancel: CancelToken
) -> AsyncGenerator[CompletionEvent | Switched, None]:
    """Yield the events of a completion. Raises the last candidate's ProviderError."""
    shown = False
    chain = candidates(endpoints, choice)
    for place, candidate in enumerate(chain):
        provider = endpoints.provider(candidate.endpoint)
        adapted = adapt_request(endpoints, candidate, request)
        try:
            async with aclosing(provider.complete(adapted, cancel)) as events:
                async for event in events:
                    shown = shown or not isinstance(event, ProgressUpdate)
                    yield event
        except ProviderError as error:
            may_move_on = error.retryable or error.status == 404
            if shown or not may_move_on or place + 1 == len(chain):
                raise
            yield Switched(chain[place + 1], str(error))
        else:
            return


def adapt_request(endpoints: Endpoints, choice: ModelChoice, request: CompletionRequest) -> CompletionRequest:
    """Return the request with this model's name, its limit, and no effort that the model does not have."""
    info = endpoints.info(choice)
    effort = request.effort if request.effort in info.efforts else None
    limit = choice.endpoint.max_tokens or request.max_tokens
    return replace(request, model=choice.model, effort=effort, max_tokens=limit)
