"""The bodies of Ollama's API as its documentation has them.

Unknown fields and options are ignored and counted. `Raw` keeps JSON as the client wrote it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

NonEmpty = Annotated[str, msgspec.Meta(min_length=1)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
MAX_STOPS = 16  # a node's
Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]


class Options(msgspec.Struct):
    """The options that say how an answer is sampled; the rest of them say how a model is loaded."""

    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    min_p: Share | None = None
    seed: int | None = None
    num_predict: int | None = None
    stop: NonEmpty | Annotated[list[NonEmpty], msgspec.Meta(max_length=MAX_STOPS)] | None = None
    repeat_penalty: Annotated[float, msgspec.Meta(gt=0)] | None = None
    repeat_last_n: int | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    mirostat: int | None = None
    typical_p: float | None = None
    tfs_z: float | None = None


class PastFunction(msgspec.Struct):
    name: NonEmpty
    arguments: msgspec.Raw


class PastCall(msgspec.Struct):
    """A call of an earlier answer. Clients that know no ids answer it by its function's name."""

    function: PastFunction
    id: str | None = None


class Message(msgspec.Struct):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: list[NonEmpty] | None = None
    tool_calls: list[PastCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class Function(msgspec.Struct):
    name: NonEmpty
    description: str | None = None
    parameters: msgspec.Raw = msgspec.Raw()


class Tool(msgspec.Struct):
    function: Function
    type: Literal["function"] = "function"


class ModelBody(msgspec.Struct, kw_only=True):
    """A body that names a model. `name` is the older name of that field in `/api/show` and `/api/pull`."""

    model: str | None = None
    name: str | None = None
    stream: bool | None = None


class AnswerBody(msgspec.Struct, kw_only=True):
    """What the bodies of `/api/chat` and `/api/generate` share."""

    model: NonEmpty
    stream: bool | None = None  # absent: true
    format: msgspec.Raw = msgspec.Raw()
    think: bool | Literal["low", "medium", "high", "max"] | None = None
    options: Options | None = None
    keep_alive: float | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class OllamaChatBody(AnswerBody, kw_only=True):
    messages: list[Message] | None = None
    tools: list[Tool] | None = None


class GenerateBody(AnswerBody, kw_only=True):
    prompt: str | None = None
    system: str | None = None
    images: list[NonEmpty] | None = None
    suffix: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool | None = None
    width: Any = None
    height: Any = None
    steps: Any = None


class EmbedBody(msgspec.Struct, kw_only=True):
    model: NonEmpty
    input: str | list[str]
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None


class EmbeddingsBody(msgspec.Struct, kw_only=True):
    """The body of `/api/embeddings`, which `/api/embed` superseded."""

    model: NonEmpty
    prompt: str


# Documented fields without an effect here.
TOLERATED = frozenset({"truncate", "shift"})
TOLERATED_BY_EMBEDDINGS = TOLERATED | {"options", "keep_alive"}
TOLERATED_OPTIONS = frozenset(
    {
        "embedding_only",
        "f16_kv",
        "logits_all",
        "low_vram",
        "main_gpu",
        "mirostat_eta",
        "mirostat_tau",
        "num_batch",
        "num_ctx",
        "num_gpu",
        "num_keep",
        "num_thread",
        "numa",
        "penalize_newline",
        "use_mlock",
        "use_mmap",
        "vocab_only",
    }
)
