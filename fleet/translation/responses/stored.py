"""What is stored of a response: the response, and the items of its prompt.

The items include those of the responses before it, so that a stored response can be continued and shown after
its predecessors are gone.
"""

from __future__ import annotations

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


_stored = msgspec.json.Decoder(Stored)
_outputs = msgspec.json.Decoder(_Output)


def encode(call: ResponsesCall, response: Json) -> bytes:
    """The bytes to store for an answer to `call`."""
    return msgspec.json.encode({"response": response, "input": [*call.earlier, *given(call, response)]})


def given(call: ResponsesCall, response: Json) -> list[Json]:
    """The items of a request as the API lists them."""
    ident = str(response["id"]).removeprefix("resp_")
    return [listed(item, f"{ident}_in{number}") for number, item in enumerate(call.input)]


def decode(data: bytes) -> Stored:
    return _stored.decode(data)


def conversation(stored: Stored) -> list[msgspec.Raw]:
    """The items that precede the input of a request that continues the response."""
    return [*stored.input, *_outputs.decode(stored.response).output]


def listed(raw: msgspec.Raw, ident: str) -> Json:
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


def with_response(found: Stored, response: bytes) -> bytes:
    """The bytes to store with another response."""
    return msgspec.json.encode({"response": msgspec.Raw(response), "input": found.input})
