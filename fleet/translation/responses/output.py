"""The items and fields that a streamed and a whole response share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from fleet.translation.events import Failure, Stop, Usage
from fleet.translation.responses.tools import Origin

Json = dict[str, Any]

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_ERROR_CODE = {429: "rate_limit_exceeded"}


def message_item(id_: str, status: str, content: list[Json]) -> Json:
    return {"id": id_, "type": "message", "status": status, "role": "assistant", "content": content}


def text_part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def reasoning_item(id_: str, parts: list[Json], *, encrypted: str | None = None) -> Json:
    """The item of a thought, whose parts are all of one kind."""
    summary = [part for part in parts if part["type"] == "summary_text"]
    content = [part for part in parts if part["type"] == "reasoning_text"]
    item: Json = {"id": id_, "type": "reasoning", "summary": summary, "content": content}
    return item if encrypted is None else item | {"encrypted_content": encrypted}


class ThoughtForm(msgspec.Struct, frozen=True):
    """The names under which a thought is sent."""

    part: str  # the type of its part
    index: str  # the name of the part's number
    parts: str  # events of the part
    texts: str  # events of its text

    def text(self, text: str) -> Json:
        return {"type": self.part, "text": text}


AS_CONTENT = ThoughtForm(
    "reasoning_text", "content_index", "response.content_part", "response.reasoning_text"
)
AS_SUMMARY = ThoughtForm(
    "summary_text", "summary_index", "response.reasoning_summary_part", "response.reasoning_summary_text"
)


def call_item(id_: str, status: str, call_id: str, origin: Origin, arguments: str) -> Json:
    """The item of a call: of a function, or of a custom tool with `arguments` as its input."""
    kind, field = ("custom_tool_call", "input") if origin.is_custom else ("function_call", "arguments")
    item = {
        "id": id_,
        "type": kind,
        "status": status,
        "call_id": call_id,
        "name": origin.name,
        field: arguments,
    }
    return item | {"namespace": origin.namespace} if origin.namespace else item


def compaction(response: Json, said: Sequence[Any], seal: Callable[[str], str]) -> Json:
    """The answer to a request for compaction, from the response with the summary.

    It has the user's messages of what was `said`, and the summary, sealed.
    """
    parts = [part for item in response["output"] if item["type"] == "message" for part in item["content"]]
    ident = str(response["id"]).removeprefix("resp_")
    summary = seal("".join(part["text"] for part in parts))
    items: list[Json] = [msgspec.json.decode(msgspec.json.encode(item)) for item in said]
    users = [item for item in items if item["type"] == "message" and item["role"] == "user"]
    return {
        "id": response["id"],
        "object": "response.compaction",
        "created_at": response["created_at"],
        "output": [*users, {"id": f"cmp_{ident}_0", "type": "compaction", "encrypted_content": summary}],
        "usage": response["usage"],
    }


def call_status(arguments: str) -> str:
    """`incomplete` for arguments that are no whole JSON object: the client must not run the call."""
    try:
        whole = isinstance(msgspec.json.decode(arguments), dict)
    except (msgspec.DecodeError, RecursionError):
        whole = False
    return "completed" if whole else "incomplete"


def text_status(ended_by: object) -> str:
    """`incomplete` for text that a limit cut off."""
    return "incomplete" if isinstance(ended_by, Stop) and ended_by.reason in _INCOMPLETE else "completed"


def usage_fields(usage: Usage) -> Json:
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.completion,
    }


def end_fields(end: Stop | Failure) -> Json:
    """The response's status, and the reason where it is not `completed`."""
    if isinstance(end, Failure):
        code = _ERROR_CODE.get(end.status, "server_error" if end.status >= 500 else end.code)
        return {"status": "failed", "error": {"code": code, "message": end.message}}
    reason = _INCOMPLETE.get(end.reason)
    if reason is None:
        return {"status": "completed"}
    return {"status": "incomplete", "incomplete_details": {"reason": reason}}
