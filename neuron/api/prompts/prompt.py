"""What every endpoint needs to make a prompt of: capabilities and tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from cortex_site.base.excerpt import as_note
from neuron.harness import LocalModel
from neuron.pipe import ImageSpan
from neuron.wire import ApiError

LONG_PROMPT_CHARS = 4_000  # beyond it tokenizing takes milliseconds, and leaves the event loop
MANY_CHARS_PER_TOKEN = 8  # on average; a text that has more is compressed unusually well
_CUT_TOKENS = 64  # that a text may have more because it is cut
_THREADS = ThreadPoolExecutor(2, "tokenizer")


class Prompt(NamedTuple):
    """What a model is to continue."""

    text: str
    tokens: list[int]
    images: Sequence[ImageSpan] = ()  # in the order of the prompt
    marks: Sequence[tuple[int, int]] = ()  # digests of its beginnings, and their lengths in tokens
    adjusted: Sequence[str] = ()  # what was changed in a chat so that its template takes it
    ignored: Sequence[str] = ()  # parameters without a switch in its template, and unread fields
    num_calls: int = 0  # tool calls in a chat

    @property
    def headers(self) -> dict[str, str]:
        """The answer's headers that tell what became of the chat."""
        told = {"x-cortex-adjusted": self.adjusted, "x-cortex-ignored": self.ignored}
        return {name: as_note(", ".join(values)) for name, values in told.items() if values}


def require_capability(model: LocalModel, name: str) -> None:
    """Raise `ApiError` 400 unless the model is one for chat, for embeddings or for ranking."""
    if name not in model.capabilities:
        can = " and ".join(sorted(model.capabilities & {"chat", "embeddings", "rerank"})) or "completions"
        message = f"The model {model.id!r} does {can}, not {name}."
        raise ApiError(400, "wrong_modality", message, param="model")


def require_generation(model: LocalModel) -> None:
    """Raise `ApiError` 400 when the model writes no texts."""
    if others := model.capabilities & {"embeddings", "rerank"}:
        message = f"The model {model.id!r} does {others.pop()}, not completions."
        raise ApiError(400, "wrong_modality", message, param="model")


async def encode(model: LocalModel, text: str, param: str, *, is_rendered: bool) -> list[int]:
    """The tokens of `text`; special tokens are added unless a chat template wrote them (`is_rendered`).

    Raises `ApiError` 400 for a text that is so long that the model's context cannot hold it, without reading
    it to its end.
    """
    if len(text) < LONG_PROMPT_CHARS:
        return model.text.encode(text, is_rendered=is_rendered)
    return await asyncio.get_running_loop().run_in_executor(
        _THREADS, partial(_encode_long, model, text, param, is_rendered=is_rendered)
    )


def _encode_long(model: LocalModel, text: str, param: str, *, is_rendered: bool) -> list[int]:
    least = _least_tokens(model, text)
    if least > model.context:
        message = (
            f"This model's maximum context length is {model.context} tokens. However, your prompt has at "
            f"least {least} tokens. Please shorten it."
        )
        raise ApiError(400, "context_length_exceeded", message, param=param)
    return model.text.encode(text, is_rendered=is_rendered)


def _least_tokens(model: LocalModel, text: str) -> int:
    """How many tokens a text has at least, found without reading more of it than the context may hold."""
    fits = model.context * MANY_CHARS_PER_TOKEN
    least = len(text) // model.text.longest_token
    if least > model.context or len(text) <= fits:
        return least
    return max(least, len(model.text.encode(text[:fits])) - _CUT_TOKENS)
