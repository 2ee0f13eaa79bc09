"""What is fuzzed: for each reader the inputs that are mutated, and what has to hold of any input."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from random import Random
from tempfile import NamedTemporaryFile
from typing import Any

from fleet.gateway.dialects.chat_body import decode_head
from neuron.api.bodies import chat
from neuron.models.checkpoint import ModelLoadError
from neuron.models.gguf.split_files import read_files
from neuron.models.gguf.text import read_gguf_text
from neuron.text.json_schema.check import rewritten
from neuron.text.json_schema.problem import SchemaError
from neuron.text.json_schema.rules import KeywordRules
from neuron.text.notations.known import NOTATIONS
from neuron.text.schema import grammar_source
from neuron.wire import ApiError
from tests.ext import test_peek as peek
from tests.ext import test_sse as sse
from tests.gguf.raw import SMALL, SMALL_DATA
from tests.http import test_answer_reader as answers
from tests.http import test_request_reader as requests
from tests.stubs.damage import SPICE
from tests.stubs.mutations import mutated_bytes, mutated_json, pieces
from tests.text import call_templates, families
from tests.text.splitting import merged
from tests.text.test_calls_in_tags import SAMPLE, TOOLS
from tests.text.test_json_schema import MADE

Check = Callable[[Random], None]  # draws an input and checks it; raises `DifferenceError`

SYNTAX = rb'" \ { } [ ] , : 0 - 1e9 \u \ud800 null true []'.split()


class DifferenceError(Exception):
    """Two readings of one input differ; the message holds the input."""


def _differ(data: Any, one: Any, other: Any) -> None:
    if one != other:
        raise DifferenceError(f"{data!r}: {one!r} is not {other!r}"[:2000])


# --- HTTP ---


def request(dice: Random) -> None:
    data = b"".join(
        mutated_bytes(dice, dice.choice(requests.REQUESTS), SPICE) for _ in range(dice.randint(1, 3))
    )
    cut = pieces(dice, data)
    said, *others = [
        requests.read(kind, each) for kind in (requests.Fast, requests.Complete) for each in (cut, [data])
    ]
    for other in others:
        _differ(cut, said, other)


def answer(dice: Random) -> None:
    data = mutated_bytes(dice, dice.choice(answers.ANSWERS), SPICE)
    cut, whole = pieces(dice, data), [data] if data else []
    said, *others = [
        answers.read(kind, each) for kind in (answers.Fast, answers.Complete) for each in (cut, whole)
    ]
    if any(other != said for other in others) and answers.has_newlines_behind(data):
        for other in others:
            other["keep_alive"] = said["keep_alive"]
    for other in others:
        _differ(cut, said, other)


# --- streams ---

EVENTS = [
    sse.event(sse.delta(content="hi", role="assistant")),
    sse.event(sse.delta(finish="stop", tool_calls=[{"index": 0}]), "\r\n\r\n"),
    sse.event(sse.USAGE, "\r\r"),
    sse.event({"error": {"message": "x"}, "usage": {"prompt_tokens": 3}}),
    sse.DONE,
    b": ping\n\nevent: x\nid: 1\n\n",
]
MARKS = [*SYNTAX, b"\n", b"\r", b"\n\n", b"\r\n\r\n", b"data:", b"data: ", b"[DONE]"]
MARKS += [b'"usage":{', b'"error":"', b'"choices":[{']


def events(dice: Random) -> None:
    stream = b"".join(dice.choice(EVENTS) for _ in range(dice.randint(1, 4)))
    stream = mutated_bytes(dice, stream, MARKS)
    cuts, hide = [dice.randint(0, len(stream)) for _ in range(5)], dice.random() < 0.5
    whole = sse.run(sse.NAMES[0], stream, hide=hide)
    if not hide:
        _differ(stream, whole[0], stream)
    for module in sse.NAMES:
        _differ((stream, cuts, hide), sse.run(module, stream, cuts=cuts, hide=hide), whole)


# --- bodies ---

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}
BODY: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "content": "é", "tool_call_id": "c"},
    ],
    "stream": True,
    "stream_options": {"include_usage": True},
    "max_tokens": 12,
    "n": 1,
    "temperature": 0.5,
    "stop": ["a", "b"],
    "tools": [TOOL],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}},
    "logit_bias": {"5": 1.5},
    "seed": 7,
}
KEYS = [*BODY, *chat.ChatBody.__struct_fields__, "auto", "required", "user", "include_usage", "image_url"]
NAMES = [json.dumps(key).encode() for key in KEYS]


def body(dice: Random) -> None:
    """The head as the gateway reads it, in one pass and in full, and the whole as the node does."""
    given = {key: BODY[key] for key in BODY if key == "model" or dice.random() < 0.4}
    if dice.random() < 0.6:
        given = mutated_json(dice, given, KEYS)
    data = json.dumps(given, ensure_ascii=dice.random() < 0.5).encode(errors="surrogatepass")
    if dice.random() < 0.5:
        data = mutated_bytes(dice, data, [*SYNTAX, *NAMES])
    try:
        peek.check(data)
    except AssertionError as error:
        raise DifferenceError(f"{data!r}: peek and a full parse differ") from error
    node, gateway = (_read(read, data) for read in (chat.decode, decode_head))
    if node is not None:
        seen = gateway and (gateway.model, bool(gateway.stream))
        _differ(data, (node.model, bool(node.stream)), seen)
        json.loads(data.decode(errors="replace"))  # neither looks at the bytes of texts that it skips


def _read(read: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return read(data)
    except ApiError as error:
        if not 400 <= error.status < 500:
            raise DifferenceError(f"{data!r}: {error.status}") from error
        return None


# --- schemas ---

SCHEMAS = [made["schema"] for made in MADE]
SCHEMA_WORDS = [*KeywordRules.rules, "string", "object", "array", "#", "#/$defs/a", "#/properties/a"]
SCHEMA_WORDS += ["a", "^a+$", "(?=a)b"]


def schema(dice: Random) -> None:
    """Rewriting has no other error than its own, leaves its input alone and says the same again."""
    given = mutated_json(dice, dice.choice(SCHEMAS), SCHEMA_WORDS)
    if not isinstance(given, dict):
        return
    before, is_strict = deepcopy(given), dice.random() < 0.5
    first, second = (_rewritten(given, is_strict) for _ in range(2))
    _differ(before, first, second)
    _differ(before, given, before)


def _rewritten(given: dict[str, Any], is_strict: bool) -> Any:
    try:
        root, normaliser = rewritten(given, is_strict=is_strict)
    except SchemaError as error:
        return error.pointer, error.reason
    except RecursionError:
        return "nested too deeply"
    return grammar_source(root), normaliser.unenforced


# --- calls ---


def _written() -> dict[str, list[str]]:
    """What models of each notation write."""
    found: dict[str, list[str]] = {name: [] for name in NOTATIONS}
    for template in call_templates.TEMPLATES:
        found[call_templates.notation_of(template)].append(call_templates.written(template, SAMPLE))
    for name in {*families.TEMPLATES, "olmo", "lfm2", "pythonic"} & found.keys():
        found[name].append(families.written(name, SAMPLE))
    return found


WRITTEN = _written()
AROUND = [*SYNTAX, *b"< </ > ( ) ' text ``` <think> </think>".split(), b"\n", b" ", "日".encode()]
WORDS = {
    name: [*AROUND, *(word.encode() for word in sorted({*row.openers, *row.markers, *row.visible}))]
    for name, row in NOTATIONS.items()
}


def calls(dice: Random) -> None:
    """A parser says the same of a text however it is cut."""
    name = dice.choice(list(NOTATIONS))
    written = dice.choice(WRITTEN[name] or [" ".join(NOTATIONS[name].openers)]).encode()
    before = b"So be it.\n" if dice.random() < 0.2 else b""
    written = before + written + written[: dice.randint(0, 30)]
    text = mutated_bytes(dice, written, WORDS[name]).decode(errors="replace")
    whole = _heard(name, [text])
    for cut in (pieces(dice, text), list(text)):
        _differ((name, cut), _heard(name, cut), whole)


def _heard(name: str, cut: list[str]) -> Any:
    parser = NOTATIONS[name].parser(lambda name, index: f"{name}:{index}", TOOLS)
    said = [event for piece in cut for event in parser.feed(piece)]
    return merged(said + parser.finish()), parser.num_closed


# --- models ---


def gguf(dice: Random) -> None:
    """A file's keys, tensors and text are read, or refused with the file's name."""
    with NamedTemporaryFile(suffix=".gguf") as file:
        file.write(mutated_bytes(dice, SMALL[:-SMALL_DATA], SPICE) + SMALL[-SMALL_DATA:])
        file.flush()
        path = Path(file.name)
        for read in (read_files, read_gguf_text):
            with suppress(ModelLoadError):
                read(path)


TARGETS: dict[str, Check] = {
    "request": request,
    "answer": answer,
    "events": events,
    "body": body,
    "schema": schema,
    "calls": calls,
    "gguf": gguf,
}
