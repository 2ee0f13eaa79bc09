"""The parameters that chats and completions share: sampling, length, streaming, and those without effect.

Each may be null, which is its default: generated clients send all that they know.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from neuron.api.errors import invalid

Count = Annotated[int, Meta(ge=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
Name = Annotated[str, Meta(min_length=1)]
TokenId = Annotated[int, Meta(ge=0, lt=2**32)]  # as tokenizers count

MAX_STOPS = 16
MAX_CHOICES = 128
MAX_BIASES = 1024
MAX_TOP_LOGPROBS = 20


Inputs = str | list[str | TokenId | list[TokenId]] | None  # a text, texts, tokens, or lists of tokens


def each_input(given: Inputs) -> list[str | list[int]]:
    """The texts and lists of tokens; a single one of either counts as a list of one."""
    if isinstance(given, str):
        return [given]
    inputs: Any = given or []
    is_tokens = inputs and all(isinstance(part, int) for part in inputs)
    return [inputs] if is_tokens else inputs


class StreamOptions(Struct, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class GenerationBody(Struct, forbid_unknown_fields=True, kw_only=True):
    model: Name | UnsetType = UNSET
    # sampling
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**63 - 1)] | None = None
    min_p: Share | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[TokenId, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    # length
    max_tokens: Count | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[TokenId] | None = None
    ignore_eos: bool | None = None
    # answer
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # accepted: they change nothing about the answer
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None

    @property
    def limit(self) -> int | None:
        """The most tokens that the answer may have; None when the body does not say."""
        return self.max_tokens

    @property
    def num_alternatives(self) -> int | None:
        """How many likely tokens each logprob comes with; None when no logprobs are asked for."""
        return None

    @property
    def scores_prompts(self) -> bool:
        """Whether the prompts' own logprobs are asked for."""
        return False

    @property
    def stops(self) -> list[str]:
        if isinstance(self.stop, str):
            return [self.stop]
        return self.stop or []

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def refuse_contradictions(self) -> None:
        """Raise `ApiError` 400 for parameters that contradict each other, and for too many of anything."""
        if self.limit is not None and (self.min_tokens or 0) > self.limit:
            raise invalid("min_tokens", f"min_tokens is greater than the {self.limit} tokens allowed.")
        if self.stream_options and not self.stream:
            raise invalid("stream_options", "stream_options needs stream to be true.")
        if len(self.stops) > MAX_STOPS:
            raise invalid("stop", f"stop has {len(self.stops)} strings; {MAX_STOPS} are allowed.")
        if "" in self.stops:
            raise invalid("stop", "stop must not hold an empty string.")
        if len(self.logit_bias or ()) > MAX_BIASES:
            raise invalid("logit_bias", f"logit_bias has more than {MAX_BIASES} entries.")
