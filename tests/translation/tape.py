"""What upstreams send, in the smallest form a test can write it."""

from __future__ import annotations

import itertools
import json

from fleet.translation import ChatReader
from fleet.translation.events import ToolCallArguments, ToolCallEnd, ToolCallStart


def sse(*payloads, end="\n", done=True):
    """Payloads as an event stream; a string goes out as it is."""
    lines = [item if isinstance(item, str) else json.dumps(item) for item in payloads]
    lines += ["[DONE]"] if done else []
    return "".join(f"data: {line}{end}{end}" for line in lines).encode()


def say(finish=None, *, choice=None, **delta):
    """One chunk with one choice."""
    chosen = {"index": 0, "delta": delta, "finish_reason": finish, **(choice or {})}
    return {"id": "chatcmpl-7", "object": "chat.completion.chunk", "model": "m", "choices": [chosen]}


def call(**entry):
    """One entry of `tool_calls`; `name` and `arguments` move into its function."""
    function = {key: entry.pop(key) for key in ("name", "arguments") if key in entry}
    return entry | ({"function": function} if function else {})


def use(*entries, finish=None):
    """One chunk with fragments of tool calls."""
    return say(finish, tool_calls=list(entries))


def read(data, *, pieces=None):
    """Every event of a stream that comes in these pieces."""
    reader = ChatReader(request_id="req")
    events = [event for piece in pieces or [data] for event in reader.feed(piece)]
    return events + reader.close()


def cut(data, places):
    """The bytes in pieces, cut at the given places."""
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(bounds)]


def called(id_, name, *fragments):
    """The events of one call."""
    return [ToolCallStart(id_, name), *map(ToolCallArguments, fragments), ToolCallEnd()]
