"""One completion, from the chosen model or from the next of its `fallback` list.

Another endpoint is asked only while nothing of an answer has been shown, and each change is announced by a
`Switched` event before the new endpoint's first one.
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
    chain = {choice.tag: choice}
    for selector in choice.endpoint.fallback:
        other = endpoints.resolve(selector)
        chain.setdefault(other.tag, other)
    return list(chain.values())


async def complete(
    endpoints: Endpoints, choice: ModelChoice, request: CompletionRequest, cancel: CancelToken
) -> AsyncGenerator[CompletionEvent | Switched, None]:
    """Raises the last candidate's ProviderError."""
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
    """The request as this model takes it: its name, its limit, an effort only where it has one."""
    info = endpoints.info(choice)
    effort = request.effort if request.effort in info.efforts else None
    limit = choice.endpoint.max_tokens or request.max_tokens
    return replace(request, model=choice.model, effort=effort, max_tokens=limit)
