"""The values that the agent loop and the wires exchange.

Nothing here knows HTTP, a vendor's field names or the Agent Client Protocol. Adapters translate a
`CompletionRequest` into a wire's body, and a wire's stream into `CompletionEvent`s; the loop and the session
log hold `Message`s. All values are frozen. Tool arguments stay the string that the model wrote.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Role(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    REFUSAL = "refusal"
    PAUSE = "pause"  # Anthropic's pause_turn: the server continues when the turn is sent back


@dataclass(frozen=True, slots=True)
class TextPart:
    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    mime_type: str
    data: str  # base64
    uri: str | None = None


@dataclass(frozen=True, slots=True)
class ReasoningPart:
    """A thought, with what its wire needs to accept it in a later request: a signature, an encrypted item."""

    text: str
    wire: str = ""
    model: str = ""  # "endpoint:model" that produced it; `state` is valid for no other
    state: Any = None  # JSON, opaque to all but the adapter of `wire`


Part = TextPart | ImagePart | ReasoningPart


@dataclass(frozen=True, slots=True)
class ToolCall:
    id: str
    name: str
    arguments: str = "{}"


@dataclass(frozen=True, slots=True)
class ToolSpec:
    name: str
    description: str
    parameters: dict[str, Any]  # JSON schema of an object


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    parts: tuple[Part, ...] = ()
    calls: tuple[ToolCall, ...] = ()  # of the assistant
    tool_call_id: str = ""  # of a tool's result: the call that it answers
    is_error: bool = False

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))

    @classmethod
    def of(cls, role: Role, text: str) -> Message:
        return cls(role, (TextPart(text),))


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    model: str  # without the endpoint's prefix
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    effort: str | None = None


@dataclass(frozen=True, slots=True)
class ModelDetails:
    id: str
    display_name: str | None = None
    context_window: int | None = None  # tokens
    max_output_tokens: int | None = None
    efforts: tuple[str, ...] = ()
    images: bool | None = None  # None: unknown
    state: str | None = None  # "warm", "cold" or "loading"; None: unknown


@dataclass(frozen=True, slots=True)
class UsageStats:
    prompt_tokens: int = 0  # all input, including cached input
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


# Events of one completion. Text, reasoning and fragments of calls come in the model's order. A finished
# stream ends with ToolCallEnd for each call, then Finish, then Usage if the wire reported it.


@dataclass(frozen=True, slots=True)
class TextDelta:
    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    text: str


@dataclass(frozen=True, slots=True)
class ReasoningState:
    """The end of a reasoning block. `state` is what this wire wants back in the next request."""

    state: Any


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArgsDelta:
    index: int
    delta: str


@dataclass(frozen=True, slots=True)
class ToolCallEnd:
    index: int


@dataclass(frozen=True, slots=True)
class Finish:
    reason: FinishReason


@dataclass(frozen=True, slots=True)
class Usage:
    stats: UsageStats


@dataclass(frozen=True, slots=True)
class ProgressUpdate:
    """The endpoint is alive but not answering yet, for instance because a cold model is loading."""

    text: str


CompletionEvent = (
    TextDelta
    | ReasoningDelta
    | ReasoningState
    | ToolCallStart
    | ToolCallArgsDelta
    | ToolCallEnd
    | Finish
    | Usage
    | ProgressUpdate
)
