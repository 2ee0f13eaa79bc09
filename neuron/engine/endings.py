"""Where an answer ends, among tokens that were sampled in one step."""

from __future__ import annotations

from typing import NamedTuple

from neuron.engine.request import EngineRequest, GrammarFailure


class AnswerEnd(NamedTuple):
    """How an answer ends: with a token that stops it, unreported, or because its grammar cannot go on."""

    reason: str
    stop_id: int | None = None
    failure: GrammarFailure | None = None


def cut_at_ending(request: EngineRequest, count: int) -> tuple[int, AnswerEnd | None]:
    """Drop what follows the end of an answer among its request's last `count` tokens.

    Returns how many of these its client is told of, and how they end it. Its matcher takes them in.
    """
    first = len(request.tokens) - count
    for index in range(count):
        num_output = first + index + 1 - request.num_prompt
        if ending := _ending(request, request.tokens[first + index], num_output):
            del request.tokens[first + index + 1 :]
            return index + (ending.stop_id is None), ending
    return count, None


def _ending(request: EngineRequest, token: int, num_output: int) -> AnswerEnd | None:
    if token in request.stop_ids and num_output > request.min_tokens:
        return AnswerEnd("stop", stop_id=token)
    if request.matcher:
        if failure := request.matcher.accept_token(token):
            return AnswerEnd("", failure=failure)
        if request.matcher.is_terminated:
            return AnswerEnd("stop")
    return AnswerEnd("length") if num_output >= request.max_tokens else None
