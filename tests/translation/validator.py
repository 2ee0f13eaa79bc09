"""An Anthropic stream as its documentation describes it, written without looking at the writer.

Checks every rule a client may rely on and gathers the message. Knows nothing of the package under test.
"""

from __future__ import annotations

import json


class IllegalStreamError(AssertionError):
    """The stream breaks a rule."""


DELTAS = {
    "text": {"text_delta"},
    "thinking": {"thinking_delta", "signature_delta"},
    "tool_use": {"input_json_delta"},
    "redacted_thinking": set(),
}


def frames(data):
    text = data.decode()
    must(text.endswith("\n\n") or not text, "the last event is not ended")
    for frame in text.split("\n\n")[:-1]:
        name, payload = frame.split("\n")
        must(name.startswith("event: ") and payload.startswith("data: "), f"odd frame {frame!r}")
        event = json.loads(payload.removeprefix("data: "))
        must(event["type"] == name.removeprefix("event: "), "event name and type differ")
        yield event


def must(holds, rule):
    if not holds:
        raise IllegalStreamError(rule)


class Gathered:
    def __init__(self):
        self.message = None
        self.open = None
        self.json = {}
        self.over = False
        self.failure = None
        self.stopping = False

    def take(self, event):
        must(not self.over, "something follows the end")
        kind = event["type"]
        must(kind in {"message_start", "error"} or self.message is not None, f"{kind} before message_start")
        must(not self.stopping or kind in {"message_stop", "error"}, f"{kind} after message_delta")
        getattr(self, kind)(event)

    def ping(self, event):
        must(event == {"type": "ping"}, "odd ping")

    def message_start(self, event):
        must(self.message is None, "two message_start")
        self.message = event["message"]
        must(self.message["content"] == [] and self.message["stop_reason"] is None, "message starts full")
        must(self.message["role"] == "assistant" and self.message["type"] == "message", "odd message")
        counts = self.message["usage"]
        must(all(isinstance(counts[name], int) for name in ("input_tokens", "output_tokens")), "no counts")

    def content_block_start(self, event):
        must(self.open is None, "a block begins inside a block")
        must(event["index"] == len(self.message["content"]), "indices are not consecutive")
        block = event["content_block"]
        empty = {"text": "text", "thinking": "thinking", "tool_use": "input"}.get(block["type"])
        must(empty is None or not block[empty], "a block begins full")
        self.open = event["index"]
        self.message["content"].append(block)

    def content_block_delta(self, event):
        must(event["index"] == self.open, "a delta for a block that is not open")
        block, delta = self.message["content"][self.open], event["delta"]
        must(delta["type"] in DELTAS[block["type"]], f"{delta['type']} in a {block['type']} block")
        match delta:
            case {"type": "text_delta", "text": text}:
                block["text"] += text
            case {"type": "thinking_delta", "thinking": text}:
                must(not block["signature"], "thinking after its signature")
                block["thinking"] += text
            case {"type": "signature_delta", "signature": signature}:
                must(not block["signature"], "two signatures")
                block["signature"] = signature
            case {"type": "input_json_delta", "partial_json": fragment}:
                self.json[self.open] = self.json.get(self.open, "") + fragment

    def content_block_stop(self, event):
        must(event["index"] == self.open, "the end of a block that is not open")
        block = self.message["content"][self.open]
        if block["type"] == "tool_use":
            block["input"] = parsed(self.json.get(self.open, ""))
        self.open = None

    def message_delta(self, event):
        must(self.open is None, "the message ends inside a block")
        must(event["delta"]["stop_reason"] is not None, "no stop reason")
        self.message |= event["delta"]
        self.message["usage"] = self.message["usage"] | event["usage"]
        self.stopping = True

    def message_stop(self, event):
        must(self.stopping, "message_stop without message_delta")
        self.over = True

    def error(self, event):
        must(set(event["error"]) == {"type", "message", "details"}, "odd error")
        self.failure = event["error"]
        self.over = True


def parsed(text):
    if not text.strip():
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"INVALID_JSON": text}


def gather(data):
    """The message of a whole stream, or its error. Raises IllegalStreamError."""
    gathered = Gathered()
    for event in frames(data):
        gathered.take(event)
    must(gathered.over, "the stream has no end")
    return gathered
