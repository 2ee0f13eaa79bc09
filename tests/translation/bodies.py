"""Bodies of Messages requests, in the smallest form a test can write them."""

from __future__ import annotations

import json

PNG = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
TOOL = {"name": "f", "input_schema": {"type": "object"}}
IMAGE_PART = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def body(*turns, **fields):
    asked = {"model": "claude", "max_tokens": 64, "messages": list(turns) or [user("Hi")]} | fields
    return json.dumps({name: value for name, value in asked.items() if value is not ...}).encode()


def user(*content):
    return {"role": "user", "content": content[0] if len(content) == 1 else list(content)}


def assistant(*content):
    return {"role": "assistant", "content": content[0] if len(content) == 1 else list(content)}


def text(value, **more):
    return {"type": "text", "text": value, **more}


def use(id_="t1", name="f", input={}):  # noqa: A002, B006 - the field's name
    return {"type": "tool_use", "id": id_, "name": name, "input": input}


def result(id_="t1", **fields):
    return {"type": "tool_result", "tool_use_id": id_, **fields}


def called(id_="t1", name="f", arguments="{}"):
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
