"""The body of `POST /v1/chat/completions`: what is known, what is refused, and how an error names it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from neuron.wire import ApiError

Count = Annotated[int, Meta(ge=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
Name = Annotated[str, Meta(min_length=1)]

MAX_STOPS = 16


class Part(Struct):
    """One part of a message's content. Other kinds than text are refused by name."""

    type: str
    text: str | None = None


class CalledFunction(Struct):
    name: Name
    arguments: str | dict[str, Any] = ""


class ToolCall(Struct):
    function: CalledFunction
    id: str = ""
    type: Literal["function"] = "function"


class Message(Struct):
    """Fields that clients send back from earlier answers (refusal, audio, annotations) mean nothing here."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class Function(Struct, forbid_unknown_fields=True, omit_defaults=True):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct, forbid_unknown_fields=True):
    type: Literal["function"]
    function: Function


class StreamOptions(Struct, forbid_unknown_fields=True):
    include_usage: bool = False
    include_obfuscation: bool | None = None


class ChatBody(Struct, forbid_unknown_fields=True, kw_only=True):
    """Every parameter of OpenAI's API by name, and those that the field has added."""

    model: Name | UnsetType = UNSET
    messages: list[Message] = []  # at least one; that a model is missing is said first
    # sampling
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: Share | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    # length
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    min_tokens: Annotated[int, Meta(ge=0)] = 0
    stop: str | list[str] | None = None
    stop_token_ids: list[Annotated[int, Meta(ge=0)]] | None = None
    ignore_eos: bool = False
    # prompt
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    # answer
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    # accepted: they change nothing about the answer
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    parallel_tool_calls: bool | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    # refused unless they say what happens anyway; see NEUTRAL
    logprobs: Any = None
    top_logprobs: Any = None
    logit_bias: Any = None
    response_format: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    functions: Any = None
    function_call: Any = None
    verbosity: Any = None
    web_search_options: Any = None


NEUTRAL: dict[str, tuple[Any, ...]] = {
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "functions": (None, []),
    "function_call": (None, "none"),
    "verbosity": (None, "medium"),
    "web_search_options": (None,),
    "n": (None, 1),
}

_decoder = msgspec.json.Decoder(ChatBody)
_PLACE = re.compile(r" - at `\$\.?(.*)`$")
_MISSING = re.compile(r"missing required field `(.*?)`")
_UNKNOWN = re.compile(r"unknown field `(.*?)`")


def decode(body: bytes) -> ChatBody:
    """A body whose parameters are all known, well typed and supported. Raises `ApiError`."""
    try:
        request = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _wrong(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, "malformed_json", f"The body is not valid JSON: {error}.") from error
    if request.model is UNSET:
        raise ApiError(400, "missing_model_field", "The body must name a model.", param="model")
    if not request.messages:
        raise ApiError(400, "invalid_request_body", "messages: at least one is required.", param="messages")
    _refuse_unsupported(request)
    _refuse_contradictions(request)
    return request


def unsupported(param: str, message: str) -> ApiError:
    return ApiError(400, "unsupported_parameter", message, param=param)


def _wrong(text: str) -> ApiError:
    place = _PLACE.search(text)
    param = place[1] if place else ""
    reason = _PLACE.sub("", text)
    if unknown := _UNKNOWN.search(reason):
        param = f"{param}.{unknown[1]}".lstrip(".")
        return ApiError(400, "unknown_parameter", f"There is no parameter {param}.", param=param)
    if missing := _MISSING.search(reason):
        param = f"{param}.{missing[1]}".lstrip(".")
        reason = "is required"
    message = f"{param or 'body'}: {reason[0].lower()}{reason[1:]}."
    return ApiError(400, "invalid_request_body", message, param=param or None)


def _refuse_unsupported(request: ChatBody) -> None:
    for name, neutral in NEUTRAL.items():
        if getattr(request, name) not in neutral:
            raise unsupported(name, f"{name} is not supported yet.")
    if request.tool_choice not in (None, "none", "auto"):
        raise unsupported("tool_choice", "tool_choice is not supported yet beyond none and auto.")
    for index, tool in enumerate(request.tools or ()):
        if tool.function.strict:
            param = f"tools[{index}].function.strict"
            raise unsupported(param, f"{param} is not supported yet.")


def _refuse_contradictions(request: ChatBody) -> None:
    limits = {request.max_tokens, request.max_completion_tokens} - {None}
    if len(limits) > 1:
        raise _contradiction("max_tokens", "max_tokens and max_completion_tokens differ; send one.")
    if limits and request.min_tokens > max(limit for limit in limits if limit is not None):
        raise _contradiction("min_tokens", "min_tokens is greater than max_tokens.")
    if request.stream_options and not request.stream:
        raise _contradiction("stream_options", "stream_options needs stream to be true.")
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    if len(stops) > MAX_STOPS:
        raise _contradiction("stop", f"stop has {len(stops)} strings; {MAX_STOPS} are allowed.")
    if "" in stops:
        raise _contradiction("stop", "stop must not hold an empty string.")


def _contradiction(param: str, message: str) -> ApiError:
    return ApiError(400, "invalid_request_body", message, param=param)
