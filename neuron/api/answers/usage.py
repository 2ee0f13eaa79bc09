"""The tokens that an answer used, in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]
    completion_tokens_details: dict[str, int]


def usage(*, prompt: int, completion: int, cached: int, reasoning: int) -> Usage:
    return Usage(
        prompt, completion, prompt + completion, {"cached_tokens": cached}, {"reasoning_tokens": reasoning}
    )


def total_usage(prompts: Sequence[Sequence[Usage]]) -> Usage:
    """The usage of all choices, grouped by prompt: each prompt counts once, each answer by itself."""
    firsts = [group[0] for group in prompts]
    answers = [used for group in prompts for used in group]
    return usage(
        prompt=sum(used.prompt_tokens for used in firsts),
        completion=sum(used.completion_tokens for used in answers),
        cached=sum(used.prompt_tokens_details["cached_tokens"] for used in firsts),
        reasoning=sum(used.completion_tokens_details["reasoning_tokens"] for used in answers),
    )
