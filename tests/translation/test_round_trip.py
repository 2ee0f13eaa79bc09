"""Nothing is lost on the way: conversations there and back, answers however an upstream says them."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from fleet.translation import ChatReader, MessagesWriter, messages, read_completion
from tests.translation.bodies import PNG
from tests.translation.streams import fragments, inputs, names, texts
from tests.translation.tape import call, cut, read, say, sse
from tests.translation.validator import gather

# -- conversations: messages → chat → messages -----------------------------------------------------------

plain = texts.filter(lambda text: not text.startswith("Error: "))
text_blocks = st.builds(lambda text: {"type": "text", "text": text}, plain)
images = st.sampled_from(
    [{"type": "image", "source": PNG}, {"type": "image", "source": {"type": "url", "url": "https://h/x"}}]
)
content = st.lists(text_blocks | images, min_size=1, max_size=3)
signed = st.builds(
    lambda text, mark: {"type": "thinking", "thinking": text, "signature": "S" + mark}, texts, names
)
redacted = st.builds(lambda data: {"type": "redacted_thinking", "data": data}, names)
uses = st.builds(lambda name, given: {"type": "tool_use", "name": name, "input": given}, names, inputs)


@st.composite
def conversations(draw):
    turns = []
    for number in range(draw(st.integers(1, 3))):
        called = draw(st.lists(uses, max_size=2))
        for place, block in enumerate(called):
            block["id"] = f"t{number}_{place}"
        thoughts = draw(st.lists(signed | redacted, max_size=2))
        said = [*thoughts, *draw(st.lists(text_blocks, min_size=not called, max_size=2)), *called]
        answered = [
            {
                "type": "tool_result",
                "tool_use_id": block["id"],
                "content": draw(content),
                "is_error": draw(st.booleans()),
            }
            for block in called
        ]
        asked = draw(st.lists(text_blocks | images, min_size=not answered, max_size=2))
        turns += [{"role": "assistant", "content": said}, {"role": "user", "content": answered + asked}]
    return [{"role": "user", "content": draw(content)}, *turns]


def from_messages(chat):
    """Back again, written from the table in `conversation`."""
    turns, results = [], []
    for message in chat:
        blocks = from_content(message["content"])
        match message["role"]:
            case "assistant":
                turns += [{"role": "user", "content": results}] if results else []
                results = []
                turns.append({"role": "assistant", "content": [*thoughts(message), *blocks, *made(message)]})
            case "tool":
                results.append(from_tool(message, blocks))
            case "user":
                turns.append({"role": "user", "content": results + blocks})
                results = []
    return turns + ([{"role": "user", "content": results}] if results else [])


def from_tool(message, blocks):
    failed = blocks[0].get("text", "").startswith("Error: ")
    if failed:
        rest = blocks[0]["text"].removeprefix("Error: ")
        blocks = ([{"type": "text", "text": rest}] if rest else []) + blocks[1:]
    return {
        "type": "tool_result",
        "tool_use_id": message["tool_call_id"],
        "content": blocks,
        "is_error": failed,
    }


def from_content(value):
    if not isinstance(value, list):
        return [{"type": "text", "text": value}] if value else []
    return [part if part["type"] == "text" else from_image(part["image_url"]["url"]) for part in value]


def from_image(url):
    if not url.startswith("data:"):
        return {"type": "image", "source": {"type": "url", "url": url}}
    media, data = url.removeprefix("data:").split(";base64,")
    return {"type": "image", "source": {"type": "base64", "media_type": media, "data": data}}


def thoughts(message):
    for detail in message.get("reasoning_details", ()):
        if detail["type"] == "reasoning.encrypted":
            yield {"type": "redacted_thinking", "data": detail["data"]}
        else:
            yield {"type": "thinking", "thinking": detail["text"], "signature": detail["signature"]}


def made(message):
    for entry in message.get("tool_calls", ()):
        function = entry["function"]
        arguments = json.loads(function["arguments"])
        yield {"type": "tool_use", "name": function["name"], "input": arguments, "id": entry["id"]}


@given(conversations())
def test_a_conversation_there_and_back(turns):
    asked = json.dumps({"model": "m", "max_tokens": 1, "messages": turns}).encode()
    assert from_messages(json.loads(messages.to_chat(asked).body)["messages"]) == turns


# -- answers: chat → messages ----------------------------------------------------------------------------


@st.composite
def answers(draw):
    """What a model means to say: reasoning, text, calls as (id, name, arguments)."""
    names_ = draw(st.lists(names, max_size=3))
    called = [(f"id{number}", name, json.dumps(draw(inputs))) for number, name in enumerate(names_)]
    return draw(st.just("") | texts), draw(st.just("") | texts), called


@st.composite
def tapes(draw, answer):
    """One of the ways in which an upstream would stream it."""
    thought, text, called = answer
    field = draw(st.sampled_from(["reasoning", "reasoning_content"]))
    chunks = [say(role="assistant", content="")]
    chunks += [say(**{field: piece}) for piece in draw(fragments(thought))]
    chunks += [say(content=piece, tool_calls=[]) for piece in draw(fragments(text))]
    indexed, repeated = draw(st.booleans()), draw(st.booleans())
    for number, (id_, name, arguments) in enumerate(called):
        entry = {"index": draw(st.sampled_from([number, 0]))} if indexed else {}
        first = entry | {"id": id_, "name": name}
        pieces = draw(fragments(arguments))
        chunks.append(say(tool_calls=[call(**first, arguments=pieces[0])]))
        again = first if repeated else entry
        chunks += [say(tool_calls=[call(**again, arguments=piece)]) for piece in pieces[1:]]
    ends = draw(st.sampled_from(["tool_calls", "stop"] if called else ["stop"]))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    return sse(*chunks, say(ends), end=end)


def expected(answer):
    thought, text, called = answer
    blocks = [{"type": "thinking", "thinking": thought, "signature": "dW5zaWduZWQ="}] if thought else []
    blocks += [{"type": "text", "text": text}] if text else []
    for id_, name, arguments in called:
        blocks.append({"type": "tool_use", "id": id_, "name": name, "input": json.loads(arguments)})
    return blocks


@given(st.data())
def test_an_answer_however_it_is_said(data):
    answer = data.draw(answers())
    events = read(data.draw(tapes(answer)))
    assert gather(MessagesWriter("m").write(events)).message["content"] == expected(answer)


@given(st.data())
def test_any_cut_of_the_bytes_gives_the_same_events(data):
    tape = data.draw(tapes(data.draw(answers())))
    places = data.draw(st.lists(st.integers(0, len(tape)), max_size=8))
    assert read(tape, pieces=cut(tape, places)) == read(tape)


@given(answers())
def test_a_whole_answer(answer):
    thought, text, called = answer
    made = [call(id=id_, name=name, arguments=arguments) for id_, name, arguments in called]
    message = {"content": text, "reasoning_content": thought, "tool_calls": made}
    body = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
    found = json.loads(messages.encode_message(read_completion(body), "m"))
    assert found["content"] == expected(answer)
    assert found["stop_reason"] == ("tool_use" if called else "end_turn")


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_any_bytes_end_in_one_stop_or_failure(pieces):
    reader, writer = ChatReader(), MessagesWriter("m")
    written = b"".join(writer.write(reader.feed(piece)) for piece in pieces)
    gather(written + writer.write(reader.close()))


chunk_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "a", "stop", "{}", "{"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "delta",
                    "message",
                    "content",
                    "reasoning",
                    "tool_calls",
                    "function",
                    "name",
                    "arguments",
                    "id",
                    "index",
                    "usage",
                    "error",
                    "text",
                    "finish_reason",
                    "reasoning_details",
                    "signature",
                    "type",
                    "data",
                    "prompt_tokens",
                    "refusal",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def chunk_like(value):
    """Anything, put where a reader looks."""
    return st.sampled_from(
        [
            value,
            {"choices": value},
            {"choices": [value]},
            {"choices": [{"delta": value}]},
            {"choices": [{"delta": {"tool_calls": [value]}}]},
            {"choices": [{"delta": {"tool_calls": [{"function": value}]}}]},
            {"choices": [{"delta": {"content": value, "reasoning_details": value}}]},
            {"choices": [], "usage": value},
        ]
    )


@given(st.lists(chunk_values.flatmap(chunk_like), max_size=5))
def test_any_json_ends_in_one_stop_or_failure(payloads):
    gather(MessagesWriter("m").write(read(sse(*payloads))))
