"""What is stored of a response: the response, and the items of its prompt.

The items include those of the responses before it, so that a stored response can be continued and shown after
its predecessors are gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from fleet.translation.responses.call import ResponsesCall

Json = dict[str, Any]

_PREFIX = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
}


class Stored(msgspec.Struct):
    """`response` is the object that the client got, `input` the items of its prompt, oldest first."""

    response: msgspec.Raw
    input: list[msgspec.Raw]


class _Output(msgspec.Struct):
    output: list[msgspec.Raw]


class _Previous(msgspec.Struct):
    previous_response_id: str | None = None


_stored = msgspec.json.Decoder(Stored)
_outputs = msgspec.json.Decoder(_Output)
_previous = msgspec.json.Decoder(_Previous)


def previous_of(body: bytes) -> str | None:
    """The id of the response that a request continues; None without one, or in a malformed body."""
    if b'"previous_response_id"' not in body:
        return None
    try:
        return _previous.decode(body).previous_response_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def encode(call: ResponsesCall, response: Json) -> bytes:
    """The bytes to store for an answer to `call`."""
    ident = str(response["id"]).removeprefix("resp_")
    given = [_listed(item, f"{ident}_in{number}") for number, item in enumerate(call.input)]
    return msgspec.json.encode({"response": response, "input": [*call.earlier, *given]})


def decode(data: bytes) -> Stored:
    return _stored.decode(data)


def conversation(stored: Stored) -> list[msgspec.Raw]:
    """The items that precede the input of a request that continues the response."""
    return [*stored.input, *_outputs.decode(stored.response).output]


def _listed(raw: msgspec.Raw, ident: str) -> Json:
    """An item as the API lists it: with type, id and status, and content as parts."""
    item: Json = msgspec.json.decode(raw)
    kind = item.get("type") or "message"
    item |= {"type": kind, "id": item.get("id") or f"{_PREFIX[kind]}_{ident}"}
    if kind == "reasoning":
        return {"summary": []} | item
    if kind == "message" and isinstance(item["content"], str):
        item["content"] = [_text(item["role"], item["content"])]
    return item | {"status": item.get("status") or "completed"}


def _text(role: str, text: str) -> Json:
    if role == "assistant":
        return {"type": "output_text", "text": text, "annotations": []}
    return {"type": "input_text", "text": text}


def page(
    items: Sequence[msgspec.Raw], *, after: str | None, limit: int, newest_first: bool
) -> dict[str, Any] | None:
    """A page of at most `limit` items that follow the id `after`; None where no item has that id."""
    found: list[Json] = [msgspec.json.decode(item) for item in items]
    if newest_first:
        found.reverse()
    ids = [item["id"] for item in found]
    if after is not None and after not in ids:
        return None
    start = 0 if after is None else ids.index(after) + 1
    shown = found[start : start + limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": start + limit < len(found),
    }
