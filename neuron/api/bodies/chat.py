"""The body of `POST /v1/chat/completions`; PARAMETERS.md says what each parameter does."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from cortex_site.base.unread import UnreadFields
from neuron.api.bodies.decode import decode_body, refuse_unless_neutral, require_model
from neuron.api.bodies.generation import MAX_TOP_LOGPROBS, Count, Name
from neuron.api.bodies.guided import GuidedBody, refuse_unguidable
from neuron.api.errors import invalid
from neuron.wire import TOOL_NAME_RULE, is_tool_name


class ImageUrl(Struct):
    """Of an image or a video. `detail` is accepted and ignored: the model's own processor decides."""

    url: str
    detail: str | None = None


class ContentPart(Struct):
    """One part of a message's content. Its kind is checked later, against what the model reads."""

    type: str
    text: str | None = None
    image_url: ImageUrl | str | None = None
    video_url: ImageUrl | str | None = None
    fps: Annotated[float, Meta(gt=0, le=240)] | None = None  # frames per second of a video


class CalledFunction(Struct):
    name: Name
    arguments: str | dict[str, Any] | None = ""

    def __post_init__(self) -> None:
        self.arguments = self.arguments or ""


class ChatToolCall(Struct):
    function: CalledFunction
    id: str | None = ""
    type: Literal["function"] | None = "function"

    def __post_init__(self) -> None:
        self.id, self.type = self.id or "", "function"


class ChatMessage(Struct):
    """One message. Unknown fields pass: clients send back refusals and annotations of earlier answers."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ChatToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: Any = None  # other servers' names for it; only text is kept
    thinking: Any = None


class FunctionDefinition(Struct, forbid_unknown_fields=True, omit_defaults=True):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(Struct, forbid_unknown_fields=True):
    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(Struct, forbid_unknown_fields=True):
    name: Name


class NamedTool(Struct, forbid_unknown_fields=True, tag_field="type", tag="function"):
    """The one tool that must be called."""

    function: NamedFunction


class AllowedTools(Struct, forbid_unknown_fields=True):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Meta(min_length=1)]


class AllowedToolChoice(Struct, forbid_unknown_fields=True, tag_field="type", tag="allowed_tools"):
    """Some of the tools: the prompt shows them all, so that it stays cached, and only these are called."""

    allowed_tools: AllowedTools


ToolChoice = Literal["none", "auto", "required"] | NamedTool | AllowedToolChoice


class ChatBody(GuidedBody, forbid_unknown_fields=True, kw_only=True):
    """Every parameter of OpenAI's API, and those that other servers have added to it."""

    messages: list[ChatMessage] = []  # required, but a missing model is reported first
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    # prompt
    tools: list[FunctionTool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    documents: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    # accepted; changes nothing about the answer
    prediction: dict[str, Any] | None = None
    prompt_cache_options: dict[str, Any] | None = None
    # refused unless neutral; see NEUTRAL
    modalities: Any = None
    audio: Any = None
    functions: Any = None
    function_call: Any = None
    web_search_options: Any = None

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def num_alternatives(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def must_call(self) -> bool:
        if isinstance(self.tool_choice, AllowedToolChoice):
            return self.tool_choice.allowed_tools.mode == "required"
        return self.tool_choice == "required" or isinstance(self.tool_choice, NamedTool)

    @property
    def chosen_tools(self) -> dict[str, str]:
        """The names of the tools that `tool_choice` names, by their places in the body."""
        match self.tool_choice:
            case NamedTool(function=function):
                return {function.name: "tool_choice.function.name"}
            case AllowedToolChoice(allowed_tools=allowed):
                place = "tool_choice.allowed_tools.tools[{}].function.name"
                return {tool.function.name: place.format(i) for i, tool in enumerate(allowed.tools)}
        return {}

    def may_call(self, tool: FunctionTool) -> bool:
        """Whether `tool_choice` admits calls of a tool."""
        chosen = self.chosen_tools
        return self.tool_choice != "none" and (not chosen or tool.function.name in chosen)


NEUTRAL: dict[str, tuple[Any, ...]] = {
    "modalities": (None, ["text"]),
    "audio": (None,),
    "functions": (None, []),
    "function_call": (None, "none"),
    "web_search_options": (None,),
}

_decoder = msgspec.json.Decoder(ChatBody)

# What clients send back of earlier answers, and marks for caches that are not ours.
TOLERATED = {"annotations", "audio", "content.prompt_cache_breakpoint", "function_call", "refusal"}
_unread = UnreadFields(ChatBody, {f"messages.{name}" for name in TOLERATED})


def ignored_fields(body: bytes) -> tuple[str, ...]:
    """The fields of a chat's messages, and of what is in them, that have no effect here."""
    return _unread.of(body)


def decode(body: bytes) -> ChatBody:
    """The body of a chat. Raises `ApiError` 400 for what is unknown, unsupported or contradictory in it."""
    request = decode_body(_decoder, body)
    require_model(request.model)
    if not request.messages:
        raise invalid("messages", "messages: at least one is required.")
    refuse_unless_neutral(request, NEUTRAL)
    request.refuse_contradictions()
    _refuse_contradictions(request)
    return request


def _refuse_contradictions(request: ChatBody) -> None:
    if len({request.max_tokens, request.max_completion_tokens} - {None}) > 1:
        raise invalid("max_tokens", "max_tokens and max_completion_tokens differ; send one.")
    if request.top_logprobs and not request.logprobs:
        raise invalid("top_logprobs", "top_logprobs needs logprobs to be true.")
    _check_continuation(request)
    _check_tools(request)


def _check_continuation(request: ChatBody) -> None:
    if not request.continue_final_message:
        return
    param = "continue_final_message"
    last = request.messages[-1]
    if request.add_generation_prompt:
        raise invalid(param, f"{param} and add_generation_prompt cannot both be true.")
    if last.role != "assistant" or last.tool_calls:
        raise invalid(param, f"{param} needs the last message to be the assistant's, without calls.")
    if wanted := request.wanted:
        raise invalid(param, f"{param} contradicts {wanted.param}, which holds for the whole answer.")


def _check_tools(request: ChatBody) -> None:
    names = [tool.function.name for tool in request.tools or ()]
    for index, tool in enumerate(request.tools or ()):
        _check_name(tool.function.name, f"tools[{index}].function.name")
        _check_parameters(tool.function, f"tools[{index}].function.parameters")
    if twice := next((index for index, name in enumerate(names) if name in names[:index]), None):
        param = f"tools[{twice}].function.name"
        raise invalid(param, f"{param}: {names[twice]!r} is declared twice.")
    if not request.must_call and not request.chosen_tools:
        return
    refuse_unguidable(request, "tool_choice")
    if request.wanted and request.must_call and not request.response_format:
        param = request.wanted.param
        raise invalid(param, f"{param} contradicts tool_choice, by which the answer is a call.")
    if not names:
        raise invalid("tool_choice", "tool_choice asks for calls, but there are no tools.")
    for name, param in request.chosen_tools.items():
        if name not in names:
            raise invalid(param, f"{param}: {name!r} is not among the tools.")


def _check_name(name: str, param: str) -> None:
    if not is_tool_name(name):
        raise invalid(param, f"{param}: {_shown(name)} cannot name a tool, whose name is {TOOL_NAME_RULE}.")


def _shown(name: str) -> str:
    return repr(name if len(name) <= 64 else f"{name[:64]}…")


def _check_parameters(function: FunctionDefinition, param: str) -> None:
    type_ = (function.parameters or {}).get("type", "object")
    if type_ != "object" and not (isinstance(type_, list) and "object" in type_):
        raise invalid(param, f"{param}: arguments are an object, the schema's type is {type_!r}.")
