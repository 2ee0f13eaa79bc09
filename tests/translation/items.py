"""Bodies of Responses requests, in the smallest form a test can write them."""

from __future__ import annotations

import json

from fleet.translation import responses

TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}
CHAT_TOOL = {"type": "function", "function": {"name": "f", "strict": False, "parameters": {"type": "object"}}}


def body(*items, **fields):
    asked = {"model": "m", "input": list(items) or "Hi"} | fields
    return json.dumps({name: value for name, value in asked.items() if value is not ...}).encode()


def chat(*items, **fields):
    return json.loads(responses.to_chat(body(*items, **fields)).body)


def message(role, content, **more):
    return {"role": role, "content": content, **more}


def called(call_id="c1", name="f", arguments="{}"):
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


def output(call_id="c1", given="ok"):
    return {"type": "function_call_output", "call_id": call_id, "output": given}


def made(call_id="c1", name="f", arguments="{}"):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def thought(text="r", **more):
    return {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}], **more}
