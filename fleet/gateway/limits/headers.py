"""The headers and errors that tell a client how its key's account stands, in either dialect."""

from __future__ import annotations

import math
from collections.abc import Callable

from ext.prefetch import duration, moment, remaining
from fleet.key_limits import Admission, Bound, KeyLimits, Standing
from neuron.wire import ApiError

Headers = Callable[[KeyLimits, Standing], dict[str, str]]


class LimitExceededError(ApiError):
    """429: `rate_limit_exceeded`, or `insufficient_quota` when the period's budget is used up."""

    def __init__(
        self, bound: Bound, message: str, *, headers: dict[str, str], wait_s: float | None = None
    ) -> None:
        code = "insufficient_quota" if bound == "budget" else "rate_limit_exceeded"
        retry_after_s = None if wait_s is None else max(1, math.ceil(wait_s))
        super().__init__(429, code, message, retry_after_s=retry_after_s)
        self._bound = bound
        self._headers = headers

    @property
    def kind(self) -> str:
        """OpenAI's `type`, which names what was too much."""
        return {"budget": "insufficient_quota", "tokens": "tokens"}.get(self._bound, "requests")

    @property
    def headers(self) -> dict[str, str]:
        return self._headers | super().headers


def openai(limits: KeyLimits, admission: Standing) -> dict[str, str]:
    """OpenAI's `x-ratelimit-*`, with durations as `1m30s`."""
    found: dict[str, str] = {}
    if (limit := limits.requests_per_minute) is not None:
        found["x-ratelimit-limit-requests"] = str(limit)
        found["x-ratelimit-remaining-requests"] = str(remaining(limit, admission.requests_reset_s))
        found["x-ratelimit-reset-requests"] = duration(admission.requests_reset_s)
    if (limit := limits.tokens_per_minute) is not None:
        found["x-ratelimit-limit-tokens"] = str(limit)
        found["x-ratelimit-remaining-tokens"] = str(remaining(limit, admission.tokens_reset_s))
        found["x-ratelimit-reset-tokens"] = duration(admission.tokens_reset_s)
    return found


def anthropic(limits: KeyLimits, admission: Standing) -> dict[str, str]:
    """Anthropic's `anthropic-ratelimit-*`, with resets as RFC 3339 times."""
    found: dict[str, str] = {}
    if (limit := limits.requests_per_minute) is not None:
        found["anthropic-ratelimit-requests-limit"] = str(limit)
        found["anthropic-ratelimit-requests-remaining"] = str(remaining(limit, admission.requests_reset_s))
        found["anthropic-ratelimit-requests-reset"] = _moment(admission.at + admission.requests_reset_s)
    if (limit := limits.tokens_per_minute) is not None:
        found["anthropic-ratelimit-tokens-limit"] = str(limit)
        found["anthropic-ratelimit-tokens-remaining"] = str(remaining(limit, admission.tokens_reset_s))
        found["anthropic-ratelimit-tokens-reset"] = _moment(admission.at + admission.tokens_reset_s)
    return found


def _moment(at: float) -> str:
    return moment(math.ceil(at)).decode().rstrip()


def refusal(
    limits: KeyLimits, admission: Admission, tokens: int, headers: Headers, budget_left_s: float
) -> LimitExceededError:
    """The error that says why a request is not admitted, and when it would be."""
    bound, wait_s = admission.refused_by, admission.wait_s
    match bound:
        case "concurrent":
            message = f"This API key has {limits.concurrent_requests} requests under way, which is its limit."
        case "budget":
            wait_s = budget_left_s
            message = (
                f"This API key's budget of {limits.budget_tokens} tokens a {limits.budget_period} has no "
                f"room for the {tokens} tokens this request may use."
            )
        case "tokens":
            message = (
                f"Rate limit reached: {limits.tokens_per_minute} tokens per minute; this request may use "
                f"{tokens}. Try again in {duration(wait_s)}."
            )
        case _:
            message = (
                f"Rate limit reached: {limits.requests_per_minute} requests per minute. "
                f"Try again in {duration(wait_s)}."
            )
    return LimitExceededError(bound, message, headers=headers(limits, admission), wait_s=wait_s)


def too_large(limits: KeyLimits, tokens: int) -> LimitExceededError:
    """The error for a request that no wait would help."""
    message = (
        f"Request too large: it may use {tokens} tokens (prompt and max_tokens), and this API key has "
        f"{limits.tokens_per_minute} tokens per minute. Lower max_tokens or shorten the prompt."
    )
    return LimitExceededError("tokens", message, headers={})
