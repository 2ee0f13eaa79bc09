"""What the compiled modules of `ext` bring: python -m bench.ext

    us          microseconds a call, the best of several, of each way to do the same thing: `us[thing][way]`
    speedup     of `ext` over the best way without it: `speedup[thing]`
    compiled    whether `ext` is compiled; where it is not, `ext` runs as Python

Options and the other keys of the result are those of `bench.command`.
"""

from __future__ import annotations

import importlib.util
import json
import re
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import httptools
import msgspec

import ext
from bench import command
from ext import chunk as chunks
from ext import http, peek, sse
from ext import stream as streams
from neuron.api.answers.chat import ChatChoiceWriter
from neuron.api.answers.chunks import ChunkEncoder
from neuron.text.events import Content

TEXT = "What does the scheduler do when no page is free?\n"
OURS = ("ext", "neuron")  # the ways that begin so use `ext`
SIZES = {"200 B": 0, "10 kB": 200, "1 MB": 20_000}  # lines of text in the body


class Options(msgspec.Struct):
    include_usage: bool = False


class Head(msgspec.Struct):
    model: str
    stream: bool = False
    stream_options: Options | None = None
    max_tokens: int | None = None


def us(call: Callable[[], object], *, repeats: int, least_s: float) -> float:
    """Microseconds a call takes at best, of `repeats` runs of `least_s` or more."""
    number = 1
    while timeit.timeit(call, number=number) < least_s:
        number *= 4
    return min(timeit.repeat(call, number=number, repeat=repeats)) / number * 1e6


def as_python(name: str) -> ModuleType:
    path = Path(ext.__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"pure_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def heads(body: bytes) -> dict[str, Callable[[], object]]:
    """Reading the head of a chat body."""
    decode, pure = msgspec.json.Decoder(Head).decode, as_python("peek")
    return {
        "ext": lambda: peek.peek(body),
        "ext as Python": lambda: pure.peek(body),
        "msgspec": lambda: decode(body),
        "json": lambda: json.loads(body),
    }


def usages(body: bytes) -> dict[str, Callable[[], object]]:
    """Reading the head and asking for usage."""
    decode = msgspec.json.Decoder(Head).decode

    def by_msgspec() -> bytes:
        decode(body)
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        fields["stream_options"] = msgspec.Raw(b'{"include_usage":true}')
        return msgspec.json.encode(fields)

    def by_json() -> bytes:
        return json.dumps(json.loads(body) | {"stream_options": {"include_usage": True}}).encode()

    def by_ext() -> bytes:
        seen = peek.peek(body)
        assert seen is not None
        return seen.with_usage()

    return {"ext": by_ext, "msgspec": by_msgspec, "json": by_json}


def body(lines: int) -> bytes:
    messages = [{"role": "user", "content": TEXT * (lines or 1)}]
    return json.dumps(
        {"model": "helexa-tiny", "messages": messages, "stream": True, "max_tokens": 64}
    ).encode()


def chunk(text: str) -> bytes:
    return ChatChoiceWriter(0, _chunks(), None).delta([Content(text)], ())


def _chunks() -> ChunkEncoder:
    return ChunkEncoder(
        "chatcmpl-0123456789abcdef", "helexa-tiny", "chat.completion.chunk", include_usage=False
    )


def scanners() -> dict[str, Callable[[], object]]:
    """Looking at one passing chunk."""
    data, pure = chunk(" token"), as_python("sse")
    compiled, python = sse.SSEScanner(True), pure.SSEScanner(True)
    wanted = re.compile(rb'"(finish_reason|usage|error)"\s*:\s*["{]')
    return {
        "ext": lambda: compiled.feed(data),
        "ext as Python": lambda: python.feed(data),
        "one regular expression": lambda: wanted.search(data),
        "msgspec": lambda: msgspec.json.decode(data[6:]),
        "json": lambda: json.loads(data[6:]),
    }


REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:31313\r\ncontent-type: application/json\r\n"
    b"user-agent: openai-python\r\naccept: */*\r\nauthorization: Bearer sk-bench\r\ncontent-length: 0\r\n\r\n"
)


class _Callbacks:
    """What a user of httptools' parser must do at least."""

    def __init__(self) -> None:
        self.url, self.headers = b"", dict[bytes, bytes]()

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value


def parsers() -> dict[str, Callable[[], object]]:
    """Reading the head of a request."""
    pure = as_python("http")

    def by_httptools() -> None:
        httptools.HttpRequestParser(_Callbacks()).feed_data(REQUEST)

    return {
        "ext": lambda: http.request(REQUEST),
        "ext as Python": lambda: pure.request(REQUEST),
        "httptools": by_httptools,
    }


class _Flow:
    write_paused = False


def passages() -> dict[str, Callable[[], object]]:
    """One chunk of a node's stream, from the bytes of its socket to those for the client's."""
    data, pure = chunk(" token"), as_python("stream")
    framed = b"%x\r\n%b\r\n" % (len(data), data)

    def way(stream: Any, http: Any, sse: Any) -> Callable[[], object]:
        outlet = stream.Outlet(lambda _: None, _Flow(), True)
        tap = stream.Tap(sse.SSEScanner(True), None, outlet)
        inlet = stream.Inlet(http.Chunks(), tap, None, time.monotonic)
        return lambda: inlet.data_received(framed)

    return {
        "ext": way(streams, http, sse),
        "ext, its stream as Python": way(pure, http, sse),
        "ext as Python": way(pure, as_python("http"), as_python("sse")),
    }


def encoders() -> dict[str, Callable[[], object]]:
    """One chunk of neuron's stream."""
    pure = as_python("chunk")
    before, after = _chunks().around({"index": 0, "delta": {"content": ""}, "finish_reason": None})
    choice, text = ChatChoiceWriter(0, _chunks(), None), [Content(" token")]
    head = {"id": "chatcmpl-0123456789abcdef", "object": "chat.completion.chunk", "created": 1, "model": "m"}

    def whole(encode: Callable[[Any], bytes]) -> bytes:
        choices = [{"index": 0, "delta": {"content": " token"}, "finish_reason": None}]
        return b"data: " + encode({**head, "choices": choices}) + b"\n\n"

    return {
        "ext": lambda: chunks.enclose(before, " token", after),
        "ext as Python": lambda: pure.enclose(before, " token", after),
        "neuron, all of it": lambda: choice.delta(text, ()),
        "msgspec": lambda: whole(msgspec.json.encode),
        "json": lambda: whole(lambda value: json.dumps(value).encode()),
    }


def cases() -> dict[str, dict[str, Callable[[], object]]]:
    """The ways to do each thing."""
    found = {f"head of {size}": heads(body(lines)) for size, lines in SIZES.items()}
    found |= {f"usage asked for in {size}": usages(body(lines)) for size, lines in SIZES.items()}
    found |= {"a request's head": parsers(), "a chunk scanned": scanners()}
    return found | {"a chunk passed": passages(), "a chunk encoded": encoders()}


def measure(run: command.Run) -> dict[str, Any]:
    repeats, least_s = run.pick((7, 0.05), (3, 0.02), (1, 0.001))
    figures: dict[str, dict[str, float]] = {}
    for thing, ways in cases().items():
        if run.budget.allows(thing):
            figures[thing] = {way: us(call, repeats=repeats, least_s=least_s) for way, call in ways.items()}
            run.say(f"{thing:26} " + "   ".join(f"{way} {took:.3g}" for way, took in figures[thing].items()))
    speedup = {
        thing: min(took for way, took in ways.items() if not way.startswith(OURS)) / ways["ext"]
        for thing, ways in figures.items()
        if any(not way.startswith(OURS) for way in ways)
    }
    return {"us": figures, "speedup": speedup, "compiled": peek.COMPILED}


if __name__ == "__main__":
    command.run("ext", __doc__, measure)
