"""How upstreams send tool calls, and the calls that come of it."""

from __future__ import annotations

import pytest

from fleet.translation.events import (
    MessageStart,
    Stop,
    TextDelta,
)
from tests.translation.tape import call, called, read, say, sse, use

START = MessageStart("chatcmpl-7")
STOP = Stop("stop")
CALLS = Stop("tool_calls")
F, G = called("a", "f", '{"x":1}'), called("b", "g", "{}")

TOOLS = {
    "by the letter": (
        [
            use(call(index=0, id="a", name="f", arguments="")),
            use(call(index=0, arguments='{"x"')),
            use(call(index=0, arguments=":1}")),
            say("tool_calls"),
        ],
        [*called("a", "f", '{"x"', ":1}"), CALLS],
    ),
    "blank arguments": (
        [use(call(index=0, id="a", name="f", arguments=" ")), say("tool_calls")],
        [*called("a", "f"), CALLS],
    ),
    "no index": (
        [
            use(call(id="a", name="f", arguments='{"x":1}')),
            use(call(id="b", name="g", arguments="{}")),
            say("tool_calls"),
        ],
        [*F, *G, CALLS],
    ),
    "no index, fragments": (
        [
            use(call(id="a", name="f", arguments='{"x"')),
            use(call(arguments=":1}")),
            use(call(id="b", name="g", arguments="{}")),
            say("tool_calls"),
        ],
        [*called("a", "f", '{"x"', ":1}"), *G, CALLS],
    ),
    "no index, id repeated": (
        [
            use(call(id="a", name="f", arguments='{"x"')),
            use(call(id="a", name="f", arguments=":1}")),
            say("tool_calls"),
        ],
        [*called("a", "f", '{"x"', ":1}"), CALLS],
    ),
    "neither index nor id": (
        [
            use(call(name="f", arguments="{}"), call(name="f", arguments="{}")),
            use(call(name="f", arguments="{}")),
            use(call(name="g", arguments="{}")),
            say("stop"),
        ],
        [
            *called("call_7_0", "f", "{}"),
            *called("call_7_1", "f", "{}"),
            *called("call_7_2", "f", "{}"),
            *called("call_7_3", "g", "{}"),
            CALLS,
        ],
    ),
    "neither index nor id, name repeated": (
        [
            use(call(name="f", arguments='{"x"')),
            use(call(name="f", arguments=":1}")),
            use(call(name="f", arguments="")),
            say("stop"),
        ],
        [*called("call_7_0", "f", '{"x"', ":1}"), CALLS],
    ),
    "index always 0": (
        [
            use(call(index=0, id="a", name="f", arguments='{"x":1}')),
            use(call(index=0, id="b", name="g", arguments="{}")),
            say("stop"),
        ],
        [*F, *G, CALLS],
    ),
    "id and name repeated": (
        [
            use(call(index=0, id="a", name="f", arguments='{"x"')),
            use(call(index=0, id="a", name="f", arguments=":1}")),
            say("tool_calls"),
        ],
        [*called("a", "f", '{"x"', ":1}"), CALLS],
    ),
    "name empty later": (
        [
            use(call(index=0, id="a", name="f", arguments='{"x":')),
            use(call(index=0, id="", name="", arguments="1}")),
            say("tool_calls"),
        ],
        [*called("a", "f", '{"x":', "1}"), CALLS],
    ),
    "an id of each fragment": (
        [
            use(call(index=0, id="a", name="f", arguments='{"x"')),
            use(call(index=0, id="b", arguments=":1}")),
            say("tool_calls"),
        ],
        [*called("a", "f", '{"x"', ":1}"), CALLS],
    ),
    "id missing": (
        [use(call(index=0, name="f", arguments="{}")), say("tool_calls")],
        [*called("call_7_0", "f", "{}"), CALLS],
    ),
    "id null, name later": (
        [
            use(call(index=0, id="a")),
            use(call(index=0, id=None, arguments='{"x"')),
            use(call(index=0, name="f", arguments=":1}")),
            say("stop"),
        ],
        [*called("a", "f", '{"x"', ":1}"), CALLS],
    ),
    "same id twice": (
        [
            use(
                call(index=0, id="a", name="f", arguments='{"x":1}'),
                call(index=1, id="a", name="g", arguments="{}"),
            ),
            say("stop"),
        ],
        [*F, *called("call_7_1", "g", "{}"), CALLS],
    ),
    "sparse index": (
        [
            use(call(index=1, id="a", name="f", arguments='{"x":1}')),
            use(call(index=5, id="b", name="g", arguments="{}")),
            say("stop"),
        ],
        [*F, *G, CALLS],
    ),
    "arguments as object": (
        [use(call(index=0, id="a", name="f", arguments={"x": 1})), say("stop")],
        [*F, CALLS],
    ),
    "arguments null": (
        [use(call(index=0, id="a", name="f", arguments=None)), say("stop")],
        [*called("a", "f"), CALLS],
    ),
    "arguments 'null'": (
        [use(call(index=0, id="a", name="f", arguments="null")), say("stop")],
        [*called("a", "f"), CALLS],
    ),
    "arguments absent": ([use(call(index=0, id="a", name="f")), say("stop")], [*called("a", "f"), CALLS]),
    "interleaved": (
        [
            use(call(index=0, id="a", name="f", arguments="{")),
            use(call(index=1, id="b", name="g", arguments="{")),
            use(call(index=0, arguments='"x":1}')),
            use(call(index=1, arguments="}")),
            say("tool_calls"),
        ],
        [*called("a", "f", "{", '"x":1}'), *called("b", "g", "{", "}"), CALLS],
    ),
    "brackets in strings": (
        [
            use(call(index=0, id="a", name="f", arguments='{"x":"}\\')),
            use(call(index=1, id="b", name="g", arguments="{}")),
            use(call(index=0, arguments='"{"}')),
            say("tool_calls"),
        ],
        [*called("a", "f", '{"x":"}\\', '"{"}'), *G, CALLS],
    ),
    "escape cut in two": (
        [
            use(call(index=0, id="a", name="f", arguments='{"x":"\\')),
            use(call(index=0, arguments='"}')),
            use(call(index=1, id="b", name="g", arguments="{}")),
            use(call(index=0, arguments='"}')),
            say("tool_calls"),
        ],
        [*called("a", "f", '{"x":"\\', '"}', '"}'), *G, CALLS],
    ),
    "two of one name without anything": (
        [use(call(name="f"), call(name="f")), say("stop")],
        [*called("call_7_0", "f"), *called("call_7_1", "f"), CALLS],
    ),
    "text before and after": (
        [
            say(content="a"),
            use(call(index=0, id="a", name="f", arguments='{"x":1}')),
            say(content="b"),
            say("stop"),
        ],
        [TextDelta("a"), *F, TextDelta("b"), CALLS],
    ),
    "text inside a call": (
        [
            use(call(index=0, id="a", name="f", arguments='{"x"')),
            say(content="b"),
            use(call(index=0, arguments=":1}")),
            say("stop"),
        ],
        [*called("a", "f", '{"x"', ":1}"), TextDelta("b"), CALLS],
    ),
    "no name at all": (
        [use(call(index=0, id="a", arguments="{}")), say("stop")],
        [*called("a", "", "{}"), CALLS],
    ),
    "nothing in the entry": ([say(content="a"), use({}, None, 3), say("stop")], [TextDelta("a"), STOP]),
    "cut at length": (
        [use(call(index=0, id="a", name="f", arguments='{"x')), say("length")],
        [*called("a", "f", '{"x'), Stop("length")],
    ),
    "tag held before a call": (
        [say(content="<th"), use(call(index=0, id="a", name="f", arguments='{"x":1}')), say("stop")],
        [TextDelta("<th"), *F, CALLS],
    ),
}


@pytest.mark.parametrize("row", TOOLS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["lf", "crlf", "cr"])
def test_stream(row, end):
    chunks, expected = TOOLS[row]
    data = sse(*chunks, end=end)
    assert read(data)[1:] == expected
    assert read(data, pieces=[bytes([byte]) for byte in data])[1:] == expected
