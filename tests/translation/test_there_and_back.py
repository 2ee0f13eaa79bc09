"""Conversations of chat through another dialect and back: nothing is lost that both can express."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from fleet.translation import messages, responses
from tests.translation import losses
from tests.translation.streams import inputs, names, texts

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
LINK = {"type": "image_url", "image_url": {"url": "https://h/x.png"}}

plain = texts.filter(lambda text: text and not text.startswith("Error: "))
parts = st.lists(st.builds(lambda text: {"type": "text", "text": text}, plain), min_size=2, max_size=3)
shown = st.lists(st.sampled_from([IMAGE, LINK]), min_size=1, max_size=2)
said = plain | parts
asked = said | shown | st.builds(list.__add__, parts, shown)


@st.composite
def chats(draw):
    """System prompts at the beginning, then turns: what a user says, a whole round of calls, an answer."""
    chat = [{"role": "system", "content": text} for text in draw(st.lists(plain, max_size=2))]
    for number in range(draw(st.integers(1, 3))):
        chat.append({"role": "user", "content": draw(asked)})
        called = draw(st.lists(st.tuples(names, inputs), max_size=3))
        thoughts = {"reasoning_content": draw(plain)} if draw(st.booleans()) else {}
        if called:
            calls = [made(f"t{number}_{place}", *call) for place, call in enumerate(called)]
            text = draw(st.none() | said)
            chat.append({"role": "assistant", "content": text} | thoughts | {"tool_calls": calls})
            chat += [
                {"role": "tool", "tool_call_id": call["id"], "content": draw(asked | failed)}
                for call in calls
            ]
        else:
            chat.append({"role": "assistant", "content": draw(said)} | thoughts)
    return [*chat, {"role": "user", "content": draw(asked)}]


def made(id_, name, given_):
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": json.dumps(given_)}}


def answered(call, content):
    return {"role": "tool", "tool_call_id": call["id"], "content": content}


failed = st.builds("Error: {}".format, plain)
SCHEMA = {"type": "object", "properties": {"x": {"type": "string"}}}
functions = st.builds(
    lambda name, description: {"name": name, "description": description, "parameters": SCHEMA}, names, texts
)


@st.composite
def settings(draw):
    """Fields of a chat request beside its messages."""
    fields = {"max_tokens": draw(st.integers(1, 99)), "stream": False}
    if tools := draw(st.lists(functions, max_size=2, unique_by=lambda function: function["name"])):
        fields["tools"] = [{"type": "function", "function": function} for function in tools]
        one = {"type": "function", "function": {"name": tools[0]["name"]}}
        if draw(st.booleans()):
            fields["tool_choice"] = draw(st.sampled_from(["auto", "none", "required", one]))
            fields["parallel_tool_calls"] = draw(st.booleans())
    for name, values in {
        "temperature": st.floats(0, 1),
        "top_p": st.floats(0.1, 1),
        "user": names,
        "reasoning_effort": st.sampled_from(["low", "medium", "high"]),
    }.items():
        if draw(st.booleans()):
            fields[name] = draw(values)
    return fields


def translated(translate, body):
    return json.loads(translate(json.dumps({"model": "m"} | body).encode()).body)


# --- messages ---


def to_messages(chat):
    """What a chat client's request would be, had it been written for Anthropic's API."""
    system = [message["content"] for message in chat if message["role"] == "system"]
    turns = []
    for message in chat[len(system) :]:
        match message["role"]:
            case "assistant":
                turns.append({"role": "assistant", "content": assistant_blocks(message)})
            case "tool":
                if turns[-1]["role"] != "user":
                    turns.append({"role": "user", "content": []})
                turns[-1]["content"].append(result(message))
            case "user" if turns and turns[-1]["role"] == "user":
                turns[-1]["content"] += blocks(message["content"])
            case "user":
                turns.append({"role": "user", "content": blocks(message["content"])})
    first, *others = [{"system": text} for text in system] or [{}]
    return first, [{"role": "system", "content": other["system"]} for other in others] + turns


def assistant_blocks(message):
    thoughts = message.get("reasoning_content")
    made_of = [{"type": "thinking", "thinking": thoughts, "signature": ""}] if thoughts else []
    made_of += blocks(message["content"])
    for call in message.get("tool_calls", ()):
        function = call["function"]
        given_ = json.loads(function["arguments"])
        made_of.append({"type": "tool_use", "id": call["id"], "name": function["name"], "input": given_})
    return made_of


def blocks(content):
    if not isinstance(content, list):
        return [{"type": "text", "text": content}] if content else []
    return [part if part["type"] == "text" else picture(part["image_url"]["url"]) for part in content]


def picture(url):
    head, _, data = url.partition(";base64,")
    inline = {"type": "base64", "media_type": head.removeprefix("data:"), "data": data}
    return {"type": "image", "source": inline if data else {"type": "url", "url": url}}


def result(message):
    content = message["content"]
    is_error = isinstance(content, str) and content.startswith("Error: ")
    content = content.removeprefix("Error: ") if is_error else blocks(content)
    return {
        "type": "tool_result",
        "tool_use_id": message["tool_call_id"],
        "content": content,
        "is_error": is_error,
    }


def messages_fields(fields):
    """Anthropic's names of chat's fields."""
    fields = dict(fields)
    if tools := fields.pop("tools", None):
        fields["tools"] = [
            {
                "name": tool["function"]["name"],
                "description": tool["function"]["description"],
                "input_schema": tool["function"]["parameters"],
            }
            for tool in tools
        ]
    if choice := fields.pop("tool_choice", None):
        kinds = {"auto": "auto", "none": "none", "required": "any"}
        kind = {"type": kinds[choice]} if isinstance(choice, str) else {"type": "tool"} | choice["function"]
        parallel = fields.pop("parallel_tool_calls")
        fields["tool_choice"] = kind | {"disable_parallel_tool_use": not parallel}
    if "user" in fields:
        fields["metadata"] = {"user_id": fields.pop("user")}
    if "stop" in fields:
        fields["stop_sequences"] = fields.pop("stop")
    if "reasoning_effort" in fields:
        fields["output_config"] = {"effort": fields.pop("reasoning_effort")}
    return fields


@given(chats(), settings(), st.lists(plain, max_size=3))
def test_chat_through_messages(chat, fields, stops):
    fields |= {"stop": stops} if stops else {}
    system, turns = to_messages(chat)
    found = translated(messages.to_chat, messages_fields(fields) | system | {"messages": turns})
    assert found == {"model": "m", "messages": chat} | fields


# --- responses ---


def to_items(chat):
    for message in chat:
        if message["role"] == "tool":
            yield {
                "type": "function_call_output",
                "call_id": message["tool_call_id"],
                "output": response_parts(message["content"], "input"),
            }
            continue
        if thoughts := message.get("reasoning_content"):
            content = [{"type": "reasoning_text", "text": thoughts}]
            yield {"type": "reasoning", "summary": [], "content": content}
        if message["content"] is not None:
            kind = "output" if message["role"] == "assistant" else "input"
            yield {"role": message["role"], "content": response_parts(message["content"], kind)}
        for call in message.get("tool_calls", ()):
            yield {"type": "function_call", "call_id": call["id"], **call["function"]}


def response_parts(content, kind):
    if isinstance(content, str):
        return content
    return [
        {"type": f"{kind}_text", "text": part["text"]}
        if part["type"] == "text"
        else {"type": "input_image", "image_url": part["image_url"]["url"]}
        for part in content
    ]


def responses_fields(fields):
    """The names of chat's fields in the Responses API."""
    fields = dict(fields)
    fields["max_output_tokens"] = fields.pop("max_tokens")
    if tools := fields.pop("tools", None):
        fields["tools"] = [{"type": "function"} | tool["function"] for tool in tools]
    if isinstance(choice := fields.get("tool_choice"), dict):
        fields["tool_choice"] = {"type": "function"} | choice["function"]
    if "reasoning_effort" in fields:
        fields["reasoning"] = {"effort": fields.pop("reasoning_effort")}
    if "response_format" in fields:
        wanted = fields.pop("response_format")
        fields["text"] = {"format": {"type": wanted["type"]} | wanted["json_schema"]}
    return fields


FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}


@given(chats(), settings(), st.booleans())
def test_chat_through_responses(chat, fields, is_guided):
    fields |= {"response_format": FORMAT} if is_guided else {}
    asked_for = responses_fields(fields) | {"input": list(to_items(chat))}
    found = translated(responses.to_chat, asked_for)
    assert found == {"model": "m", "messages": chat} | fields


# --- what is lost ---


def test_the_tables_of_losses_are_those_of_the_code():
    document = losses.DOCUMENT.read_text()
    assert losses.spliced(document) == document, "run: python -m tests.translation.losses --write"
