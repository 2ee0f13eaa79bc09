"""The tokens that an answer used, in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

_ACCEPTED, _REJECTED = "accepted_prediction_tokens", "rejected_prediction_tokens"


class Timings(msgspec.Struct, frozen=True):
    """Where an answer's time went, in milliseconds; `first_token_ms` is from the request's arrival here."""

    queue_ms: float
    prefill_ms: float
    decode_ms: float
    first_token_ms: float


def timings(*, queue_s: float, first_token_s: float, decode_s: float) -> Timings:
    prefill_s = max(0.0, first_token_s - queue_s)
    return Timings(*(round(1000 * value, 1) for value in (queue_s, prefill_s, decode_s, first_token_s)))


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]
    completion_tokens_details: dict[str, int]
    timings: Timings | None = None  # of the choice that took longest, None without a token


def usage(  # noqa: PLR0913
    *,
    prompt: int,
    completion: int,
    cached: int,
    reasoning: int,
    drafted: int = 0,
    accepted: int = 0,
    timings: Timings | None = None,
) -> Usage:
    """Return the usage of an answer. OpenAI's words for its drafts are there if it had some."""
    details = {"reasoning_tokens": reasoning}
    if drafted:
        details |= {_ACCEPTED: accepted, _REJECTED: drafted - accepted}
    return Usage(prompt, completion, prompt + completion, {"cached_tokens": cached}, details, timings)


def total_usage(prompts: Sequence[Sequence[Usage]]) -> Usage:
    """The usage of all choices, grouped by prompt: each prompt counts once, each answer by itself."""
    firsts = [group[0] for group in prompts]
    answers = [used for group in prompts for used in group]
    accepted = sum(used.completion_tokens_details.get(_ACCEPTED, 0) for used in answers)
    return usage(
        prompt=sum(used.prompt_tokens for used in firsts),
        completion=sum(used.completion_tokens for used in answers),
        cached=sum(used.prompt_tokens_details["cached_tokens"] for used in firsts),
        reasoning=sum(used.completion_tokens_details["reasoning_tokens"] for used in answers),
        drafted=accepted + sum(used.completion_tokens_details.get(_REJECTED, 0) for used in answers),
        accepted=accepted,
        timings=max(
            (used.timings for used in answers if used.timings), key=lambda each: each.decode_ms, default=None
        ),
    )
