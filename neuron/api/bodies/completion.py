"""The body of `POST /v1/completions`; PARAMETERS.md says what each parameter does."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from neuron.api.bodies.decode import decode_body, require_model
from neuron.api.bodies.generation import MAX_CHOICES, MAX_TOP_LOGPROBS, Inputs, each_input
from neuron.api.bodies.guided import GuidedBody
from neuron.api.errors import invalid, unsupported

DEFAULT_MAX_TOKENS = 16  # OpenAI's


class CompletionBody(GuidedBody, forbid_unknown_fields=True, kw_only=True):
    prompt: Inputs = None
    max_tokens: Annotated[int, Meta(ge=0)] | None = None  # 0: nothing is added to the prompt
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    best_of: Any = None  # refused unless it is n
    suffix: str | None = None  # refused

    @property
    def num_alternatives(self) -> int | None:
        return self.logprobs

    @property
    def scores_prompts(self) -> bool:
        return bool(self.echo) and self.logprobs is not None

    @property
    def limit(self) -> int:
        return DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens

    @property
    def prompts(self) -> list[str | list[int]]:
        """The texts and lists of tokens to complete."""
        return each_input(self.prompt)


_decoder = msgspec.json.Decoder(CompletionBody)


def decode(body: bytes) -> CompletionBody:
    """The body of a completion. Raises `ApiError` 400 for what is unknown or unsupported in it."""
    request = decode_body(_decoder, body)
    require_model(request.model)
    if not request.prompts:
        raise invalid("prompt", "prompt: at least one is required.")
    if any(isinstance(prompt, int) for prompt in request.prompts):
        raise invalid("prompt", "prompt mixes token ids with other prompts.")
    if len(request.prompts) * request.choices > MAX_CHOICES:
        raise invalid("prompt", f"prompt and n make more than {MAX_CHOICES} choices.")
    if request.suffix:
        reason = "the models served here continue a text and were not trained to fill a gap in one"
        raise unsupported("suffix", f"suffix is not supported: {reason}.")
    if request.best_of not in (None, request.choices):
        raise unsupported("best_of", "best_of is not supported beyond n.")
    request.refuse_contradictions()
    return request
