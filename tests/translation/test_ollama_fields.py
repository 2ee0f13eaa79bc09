"""Every field of the `ollama` package's request types is read, or listed in the documents' table."""

from __future__ import annotations

import re

import ollama
from ollama import _types as sdk

from fleet.translation.ollama import wire
from tests.translation.losses import DOCUMENT

# A type of the package, and the struct that reads it.
PAIRS = [
    (sdk.ChatRequest, wire.OllamaChatBody),
    (sdk.GenerateRequest, wire.GenerateBody),
    (sdk.EmbedRequest, wire.EmbedBody),
    (sdk.EmbeddingsRequest, wire.EmbeddingsBody),
    (sdk.PullRequest, wire.ModelBody),
    (sdk.ShowRequest, wire.ModelBody),
    (ollama.Message, wire.Message),
    (ollama.Message.ToolCall, wire.PastCall),
    (ollama.Message.ToolCall.Function, wire.PastFunction),
    (ollama.Tool, wire.Tool),
    (ollama.Tool.Function, wire.Function),
]
OTHERS = {"shift"}  # of the server, and no package has it
ONLY_EMBEDDINGS = {"options"}  # of chats it is read


def unread():
    fields = {name for kind, struct in PAIRS for name in kind.model_fields if name not in read(struct)}
    options = {name for name in ollama.Options.model_fields if name not in read(wire.Options)}
    return fields - ONLY_EMBEDDINGS | {f"options.{name}" for name in options}


def read(struct):
    return struct.__struct_fields__


def listed():
    _, _, rest = DOCUMENT.read_text().partition("### In Ollama requests")
    rows = [row.split("|")[1] for row in rest.partition("##")[0].splitlines() if row.startswith("|")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_every_field_is_read_or_listed():
    assert sorted(unread() - listed()) == [], "new fields of the package: serve, refuse or list them"
    assert sorted(listed() - unread() - OTHERS) == [], "listed, and the package has no such field"


def test_what_is_listed_is_not_counted_as_unknown():
    assert {f"options.{name}" for name in wire.TOLERATED_OPTIONS} == {
        name for name in listed() if name.startswith("options.")
    }
    assert {"keep_alive", "truncate"} | OTHERS == wire.TOLERATED_BY_EMBEDDINGS - ONLY_EMBEDDINGS
