"""What a dialect can say and chat cannot, found by saying it: python -m tests.translation.losses

Prints the tables of docs/dialects.md; with `--write` it puts them there. Every row is a request or an answer
with and without one thing: what comes out of the translation decides what the table says of it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fleet.translation import messages, read_completion, responses
from neuron.wire import ApiError

Json = dict[str, Any]
DOCUMENT = Path(__file__).parents[2] / "docs" / "dialects.md"
BEGIN, END = "<!-- tables: python -m tests.translation.losses --write -->", "<!-- end of tables -->"

PDF = {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}
USE = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
TOOL = {"name": "f", "input_schema": {"type": "object"}}
FORMAT = {"type": "json_schema", "schema": {"type": "object"}}
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}}


def _text(text: str, **more: Any) -> Json:
    return {"type": "text", "text": text, **more}


def _user(*blocks: Json) -> Json:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


def _assistant(*blocks: Json) -> Json:
    return {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": list(blocks)}, U]}


def _result(**fields: Any) -> Json:
    result = {"type": "tool_result", "tool_use_id": "t", "content": "b", **fields}
    return {"messages": [{"role": "assistant", "content": [USE]}, {"role": "user", "content": [result]}]}


U: Json = {"role": "user", "content": "a"}
PLAIN: Json = {"messages": [U]}
# what it is: (the request without it, the request with it)
MESSAGES: dict[str, tuple[Json, Json]] = {
    "`cache_control`": (_user(_text("a")), _user(_text("a", cache_control={"type": "ephemeral"}))),
    "`citations` of a document": (
        _user({"type": "document", "source": {"type": "text", "data": "a"}}),
        _user({"type": "document", "source": {"type": "text", "data": "a"}, "citations": {"enabled": True}}),
    ),
    "`compaction`": (PLAIN, PLAIN | {"compaction": {"type": "auto"}}),
    "`container`": (PLAIN, PLAIN | {"container": "c"}),
    "`context_management`": (PLAIN, PLAIN | {"context_management": {"edits": []}}),
    "`inference_geo`": (PLAIN, PLAIN | {"inference_geo": "eu"}),
    "`max_tokens` `0`: the prompt is computed, the answer is empty": (
        PLAIN | {"max_tokens": 2},
        PLAIN | {"max_tokens": 0},
    ),
    "`mcp_servers`": (PLAIN, PLAIN | {"mcp_servers": [{"type": "url", "url": "https://h", "name": "s"}]}),
    "`metadata.user_id`": (PLAIN, PLAIN | {"metadata": {"user_id": "u"}}),
    "`output_format`, the older name of `output_config.format`": (PLAIN, PLAIN | {"output_format": FORMAT}),
    "`service_tier`": (PLAIN, PLAIN | {"service_tier": "auto"}),
    "`speed`": (PLAIN, PLAIN | {"speed": "fast"}),
    "`thinking`": (PLAIN, PLAIN | {"thinking": {"type": "enabled", "budget_tokens": 2048}}),
    "`thinking.budget_tokens`": (
        PLAIN | {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        PLAIN | {"thinking": {"type": "enabled", "budget_tokens": 2048}},
    ),
    "`thread`": (PLAIN, PLAIN | {"thread": {"type": "create"}}),
    "`tool_result.is_error`": (_result(), _result(is_error=True)),
    "an attribution line `x-anthropic-billing-header: …` as the first block of `system`": (
        PLAIN | {"system": [_text("a")]},
        PLAIN | {"system": [_text("x-anthropic-billing-header: cc_version=1; cch=2;"), _text("a")]},
    ),
    "a `tool_reference`": (
        _result(content=[]),
        _result(content=[{"type": "tool_reference", "tool_name": "f"}]),
    ),
    "a block of thinking with another's signature": (
        _assistant(_text("b")),
        _assistant({"type": "thinking", "thinking": "h", "signature": "s"}, _text("b")),
    ),
    "a document by `file_id`": (
        PLAIN,
        _user({"type": "document", "source": {"type": "file", "file_id": "f"}}),
    ),
    "a document in PDF": (PLAIN, _user({"type": "document", "source": PDF})),
    "a document of text": (
        PLAIN,
        _user({"type": "document", "title": "T", "source": {"type": "text", "media_type": "", "data": "a"}}),
    ),
    "a `search_result`": (
        PLAIN,
        _user({"type": "search_result", "source": "s", "title": "T", "content": [_text("a")]}),
    ),
    "a system turn that is to be cleared": (
        PLAIN,
        {"messages": [U, {"role": "system", "content": "b", "clear_at": "next_user_message"}]},
    ),
    "text between thoughts": (
        _assistant({"type": "thinking", "thinking": "h", "signature": ""}, _text("b")),
        _assistant(_text("b"), {"type": "thinking", "thinking": "h", "signature": ""}),
    ),
    "a tool of Anthropic's": (PLAIN, PLAIN | {"tools": [{"type": "web_search_20250305", "name": "w"}]}),
    "a call of a tool of Anthropic's": (
        PLAIN,
        _assistant({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}),
    ),
}

ASK: Json = {"input": [U]}
SHOWN = {"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]}
RESPONSES: dict[str, tuple[Json, Json]] = {
    "`max_tool_calls`": (ASK, ASK | {"max_tool_calls": 3}),
    "`metadata`": (ASK, ASK | {"metadata": {"a": "b"}}),
    "`moderation`": (ASK, ASK | {"moderation": {"type": "auto"}}),
    "`prompt`": (ASK, ASK | {"prompt": {"id": "p"}}),
    "`prompt_cache_key`": (ASK, ASK | {"prompt_cache_key": "k"}),
    "`reasoning.effort` `none`": (ASK, ASK | {"reasoning": {"effort": "none"}}),
    "`safety_identifier`": (ASK, ASK | {"safety_identifier": "s"}),
    "`service_tier`": (ASK, ASK | {"service_tier": "flex"}),
    "`top_logprobs`": (ASK, ASK | {"top_logprobs": 2}),
    "`truncation`": (ASK, ASK | {"truncation": "auto"}),
    "a custom tool": (ASK, ASK | {"tools": [{"type": "custom", "name": "c"}]}),
    "the grammar of a custom tool": (
        ASK | {"tools": [{"type": "custom", "name": "c"}]},
        ASK
        | {
            "tools": [
                {
                    "type": "custom",
                    "name": "c",
                    "format": {"type": "grammar", "syntax": "lark", "definition": "start: x"},
                }
            ]
        },
    ),
    "a file by `file_id` or in base64": (
        ASK,
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
    ),
    "an image by `file_id`": (
        ASK,
        {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
    ),
    "encrypted reasoning of another": (
        ASK,
        {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "e"}, U]},
    ),
    "a namespace of tools": (
        ASK | {"tools": [FUNCTION]},
        ASK | {"tools": [{"type": "namespace", "name": "n", "tools": [FUNCTION]}]},
    ),
    "a tool of OpenAI's": (ASK, ASK | {"tools": [{"type": "web_search"}]}),
    "`tool_search`": (ASK, ASK | {"tools": [{"type": "tool_search"}]}),
}

SAID: Json = {"message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}
# what an upstream says: (its choice without it, its choice with it)
ANSWERS: dict[str, tuple[Json, Json]] = {
    "`annotations`": (
        SAID,
        SAID | {"message": SAID["message"] | {"annotations": [{"type": "url_citation"}]}},
    ),
    "`audio`": (SAID, SAID | {"message": SAID["message"] | {"audio": {"id": "a", "data": "AAAA"}}}),
    "`finish_reason` `content_filter`": (SAID, SAID | {"finish_reason": "content_filter"}),
    "`logprobs`": (SAID, SAID | {"logprobs": {"content": []}}),
    "`refusal`": (SAID, {"message": {"role": "assistant", "refusal": "a"}, "finish_reason": "stop"}),
}


def _ask(translate: Callable[[bytes], Any], fields: Json) -> Json:
    body: Json = json.loads(translate(json.dumps({"model": "m", "max_tokens": 1} | fields).encode()).body)
    return body


def _outcome(translate: Callable[[Json], Json], without: Json, with_it: Json) -> str:
    base = translate(without)
    try:
        found = translate(with_it)
    except ApiError as error:
        return f"refused: `{error.param}`: {error.message}"
    if found == base:
        return "no effect"
    return "becomes " + " and ".join(
        f"`{name}: {json.dumps(_news(base.get(name), found[name]), ensure_ascii=False)}`"
        for name in found
        if found[name] != base.get(name)
    )


def _news(before: Any, after: Any) -> Any:
    """The element of a list that is different, else the value."""
    if isinstance(before, list) and isinstance(after, list):
        different = [item for item in after if item not in before]
        return different[0] if len(different) == 1 else after
    return after


def _answered(write: Callable[[bytes], Json]) -> Callable[[Json], Json]:
    return lambda choice: write(json.dumps({"id": "x", "choices": [choice]}).encode())


def _message(body: bytes) -> Json:
    found: Json = json.loads(messages.encode_message(read_completion(body), "m"))
    return found


def _response(body: bytes) -> Json:
    call = responses.to_chat(b'{"model":"m","input":"a"}')
    response = responses.from_chat(body, call, created_at=1)
    return {name: response[name] for name in ("status", "incomplete_details", "output")}


def tables() -> str:
    sections: dict[str, tuple[dict[str, tuple[Json, Json]], Callable[[Json], Json]]] = {
        "Messages requests": (MESSAGES, lambda fields: _ask(messages.to_chat, fields)),
        "Responses requests": (RESPONSES, lambda fields: _ask(responses.to_chat, fields)),
        "Chat answers as messages": (ANSWERS, _answered(_message)),
        "Chat answers as responses": (ANSWERS, _answered(_response)),
    }
    lines = [BEGIN]
    for title, (rows, translate) in sections.items():
        lines += ["", f"### {title}", "", "| what | result |", "| --- | --- |"]
        for what, (without, with_it) in rows.items():
            lines.append(f"| {what} | {_outcome(translate, without, with_it).replace('|', chr(92) + '|')} |")
    return "\n".join([*lines, "", END])


def spliced(document: str) -> str:
    """The document with the tables as they are now."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + tables() + after


if __name__ == "__main__":
    if "--write" in sys.argv:
        DOCUMENT.write_text(spliced(DOCUMENT.read_text()))
    else:
        sys.stdout.write(tables() + "\n")
