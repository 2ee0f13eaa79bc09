"""What people reported of other gateways, in our words, replayed against this one.

A row has the numbers of the reports, what went wrong there, and what is to happen here.
"""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.gateway.conftest import make_house
from tests.gateway.reports import END, REPORTS, TOOLS, USER, Json, call, claude, kinds, report, sent, tell
from tests.gateway.test_failures import error_of
from tests.stubs.fake_node import STREAM_HEAD, USAGE, chunk, framed, sse

# --- what nodes stream ---


@report("litellm#36553, LMCache#3475, freellmapi#156", "a chunk without choices ends the stream")
async def chunks_without_choices(house):
    bare = (sse({"choices": [], "usage": USAGE}), sse({"usage": USAGE}), sse({"choices": None}))
    tell(house, bare[1], chunk({"content": "Hello"}), *bare, *END)
    message = await claude(house)
    assert (message.content[0].text, message.stop_reason) == ("Hello", "end_turn")
    assert message.usage.output_tokens == USAGE["completion_tokens"]


@report("litellm#25321, #25390, #25561, #29491", "the arguments of a streamed call are empty")
async def arguments_in_pieces(house):
    tell(
        house,
        call(arguments='{"a"'),
        call(name=None, ident=None, arguments=": 1}"),
        chunk({}, "tool_calls"),
        END[1],
    )
    (block,) = (await claude(house)).content
    assert (block.name, block.input) == ("f", {"a": 1})


@report("litellm#29286", "an empty list of calls beside text opens a block for a call")
async def empty_lists_of_calls(house):
    tell(house, chunk({"content": "Hel", "tool_calls": []}), chunk({"content": "lo", "tool_calls": []}), *END)
    message = await claude(house)
    assert [(block.type, block.text) for block in message.content] == [("text", "Hello")]


@report("litellm#32357, #33224, bifrost#2446", "thoughts run into a block of text; the message starts twice")
async def thoughts_then_text(house):
    tell(house, chunk({"reasoning_content": "Hm."}), chunk({"content": "Hello"}), *END)
    message = await claude(house)
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert (message.content[0].thinking, message.content[1].text) == ("Hm.", "Hello")
    assert (await kinds(house)).count("message_start") == 1


@report("python-genai#2868, mlx-vlm#1014", "a stream with calls ends with `stop`, so no client runs them")
async def calls_that_end_with_stop(house):
    tell(house, call(arguments="{}"), *END)
    assert (await claude(house)).stop_reason == "tool_use"


@report("CLIProxyAPI#5851", "the first call has the index 1, and never completes")
async def calls_that_begin_at_one(house):
    tell(house, call(1, arguments='{"a": '), call(1, None, None, "1}"), chunk({}, "tool_calls"), END[1])
    assert (await claude(house)).content[0].input == {"a": 1}


@report("litellm#40040", "each piece of a call has an id of its own, so that one call becomes many")
async def pieces_with_ids_of_their_own(house):
    tell(house, call(0, "c1", "f", '{"a": '), call(0, "c2", None, "1}"), chunk({}, "tool_calls"), END[1])
    message = await claude(house)
    assert [(block.id, block.input) for block in message.content] == [("c1", {"a": 1})]


@report("claude-code#16785", "the stop reason of a streamed answer is null")
async def stop_reasons(house):
    for finish, reason in (("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal")):
        tell(house, chunk({"content": "Hello"}), chunk({}, finish), END[1])
        assert (await claude(house)).stop_reason == reason


@report("CLIProxyAPI#3799, claude-code#40240", "an answer says that a tool is called, and has no call")
async def no_call_after_all(house):
    tell(house, chunk({"content": "Let me see."}), chunk({}, "tool_calls"), END[1])
    message = await claude(house)
    assert [block.type for block in message.content] == ["text"]
    assert message.stop_reason == "end_turn"


@report("Portkey-AI/gateway#1797", "a node dies within its answer, and the client sees a clean end")
async def a_node_that_dies(house):
    tell(house, chunk({"content": "Hel"}), ends=False)
    assert (await kinds(house))[-1] == "error"
    ask = {"model": "m", "stream": True}
    told = (await house.client.post("/v1/chat/completions", json=ask | {"messages": [USER]})).text
    assert ("node_lost" in told, "[DONE]" in told) == (True, False)
    told = (await house.client.post("/v1/responses", json=ask | {"input": "Hi"})).text
    assert ("response.failed" in told, "response.completed" in told) == (True, False)


@report("9router#1779", "a message stops that never started")
async def a_stream_that_begins_with_an_error(house):
    tell(house, sse({"error": {"message": "no memory", "code": 500}}), sse(b"[DONE]"))
    told = await kinds(house)
    assert "message_stop" not in told
    assert set(told) <= {"message_start", "error"}


@report("praxis-proxy/ai#770, CLIProxyAPI#3077", "a client that asks for no usage has none counted")
async def usage_that_nobody_asked_for(house):
    tell(house, chunk({"content": "Hello"}), chunk({}, "stop"), sse({"choices": [], "usage": USAGE}), END[1])
    body = {"model": "m", "stream": True, "messages": [USER]}
    told = (await house.client.post("/v1/chat/completions", json=body)).text
    assert "usage" not in told
    record = await house.record()
    assert (record.prompt_tokens, record.completion_tokens) == (7, 3)


@report("mlx-dspark#37", "tokens are counted anew by another tokenizer, and those of thoughts are lost")
async def tokens_of_thoughts(house):
    counted = USAGE | {"completion_tokens": 900, "completion_tokens_details": {"reasoning_tokens": 890}}
    tell(
        house,
        chunk({"reasoning_content": "Hm."}),
        chunk({"content": "Hi"}),
        chunk({}, "stop", usage=counted),
        END[1],
    )
    assert (await claude(house)).usage.output_tokens == 900


# --- what clients send ---


@report("CLIProxyAPI#2172, claude-code#21726, codex2api#613", "thoughts with a strange signature are refused")
async def strange_signatures(house):
    for signature in ("", "x" * 24, "EqQBCgIYAhIM"):
        thought = {"type": "thinking", "thinking": "Hm.", "signature": signature}
        said = {"role": "assistant", "content": [thought, {"type": "text", "text": "Hello"}]}
        assert (await sent(house, "/v1/messages", max_tokens=9, messages=[USER, said, USER]))[1]["content"]


@report("codex2api#613", "more marks for a cache than the other side takes are an error")
async def marks_for_caches(house):
    mark = {"cache_control": {"type": "ephemeral"}}
    parts = [{"type": "text", "text": str(number)} | mark for number in range(9)]
    messages = await sent(
        house,
        "/v1/messages",
        max_tokens=9,
        system=parts,
        tools=[TOOLS["/v1/messages"][0] | mark],
        messages=[{"role": "user", "content": parts}],
    )
    assert "cache_control" not in json.dumps(messages)


def items(*between: Json) -> list[Json]:
    made = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    return [USER, made, *between, {"type": "function_call_output", "call_id": "c", "output": "12"}]


@report("awesome-deepseek-integration#740", "an item between a call and its output is a 400")
async def items_between_a_call_and_its_output(house):
    message = {"type": "message", "role": "developer", "content": "Be brief."}
    thought = {"type": "reasoning", "id": "rs_1", "summary": []}
    for between in ([message], [thought], [thought, message]):
        roles = [
            turn["role"] for turn in await sent(house, "/v1/responses", store=False, input=items(*between))
        ]
        assert roles[1:3] == ["assistant", "tool"]


@report("openai-agents-python#1863", "a message between a call and its output tears the turn apart")
async def text_after_a_call(house):
    text = {"role": "assistant", "content": "Let me see."}
    messages = await sent(house, "/v1/responses", store=False, input=items(text))
    assert [turn["role"] for turn in messages] == ["user", "assistant", "tool"]
    assert messages[1]["content"] == "Let me see."


@report("litellm#13420", "thoughts whose fields are null, as clients send them back, are refused")
async def thoughts_of_nulls(house):
    thought = {"type": "reasoning", "id": "rs_1", "summary": []}
    thought |= dict.fromkeys(("content", "encrypted_content", "status"))
    assert await sent(house, "/v1/responses", store=False, input=[USER, thought, *items()[1:]])


@report("continue#8935, #11722, #11785", "ids must begin as one vendor's do, or are refused")
async def ids_of_any_form(house):
    made = {"type": "function_call", "id": "msg_1", "call_id": "toolu_1", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "id": "x", "call_id": "toolu_1", "output": "12"}
    messages = await sent(house, "/v1/responses", store=False, input=[USER, made, output])
    assert messages[-1]["tool_call_id"] == "toolu_1"


@report("litellm#7570", "arguments of Ollama's calls are objects here and text there")
async def arguments_of_ollamas_calls(house):
    usual = house.node.answer
    tell(house, call(arguments='{"a": 1}'), chunk({}, "tool_calls"), END[1])
    body = {"model": "m", "messages": [USER], "tools": TOOLS["/v1/chat/completions"]}
    lines = (await house.client.post("/api/chat", json=body)).text.splitlines()
    calls = [made for line in lines for made in json.loads(line)["message"].get("tool_calls", ())]
    assert [made["function"]["arguments"] for made in calls] == [{"a": 1}]
    house.node.answer = usual
    said = {"role": "assistant", "content": "", "tool_calls": calls}
    messages = await sent(house, "/api/chat", messages=[USER, said, {"role": "tool", "content": "12"}])
    assert json.loads(messages[1]["tool_calls"][0]["function"]["arguments"]) == {"a": 1}


@report("ollama#5356, hindsight#3620", "a context size that a client asks for loads the model again")
async def context_sizes_of_clients(house):
    assert await sent(house, "/api/chat", messages=[USER], options={"num_ctx": 16_384})
    assert "num_ctx" not in house.node.requests[-1].body.decode()


@report("9router#2337, CLIProxyAPI#679, copilot-api#210", "tools, calls and results count as no tokens")
async def counts_with_tools(house):
    tell(house)
    use = {"type": "tool_use", "id": "t", "name": "f", "input": {"path": "x" * 500}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": "y" * 500}
    turns = [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    counted = []
    for more in ({"messages": [USER]}, {"messages": [USER, *turns], "tools": TOOLS["/v1/messages"]}):
        response = await house.client.post("/v1/messages/count_tokens", json={"model": "m"} | more)
        counted.append(response.json()["input_tokens"])
    assert counted[1] > counted[0] + 1000


# --- transport, and what is around it ---


@report(
    "langchain4j#3153, #4582, java-sdk#101, dbeaver#41850, lmstudio-bug-tracker#1079, agentscope-java#1121",
    "a client that offers HTTP/2 loses its body, or waits forever",
)
async def offers_of_http2(house):
    body = json.dumps({"model": "m", "messages": [USER]}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade, HTTP2-Settings\r\n"
        b"upgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAAA\r\ncontent-length: %d\r\n\r\n" % len(body)
    )
    writer.write(body)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    writer.close()
    async with asyncio.timeout(10):
        while not house.node.requests:
            await asyncio.sleep(0.01)
    assert house.node.requests[0].body == body


@report(
    "BricksLLM#45, RouteLLM#43, canopy#284, ai-gateway#965, LocalAI#710, llama-swap#42, 9router#3659",
    "a browser's question before its request is a 404, a 405, or asks for a key that it cannot have",
)
async def preflights(_):
    async with make_house(allowed_origins=["http://localhost:*"]) as house:
        asking = {"origin": "http://localhost:5173", "access-control-request-method": "POST"}
        asking["access-control-request-headers"] = "authorization"
        for path in ("/v1/chat/completions", "/v1/models", "/v1/messages", "/api/chat"):
            response = await house.client.request("OPTIONS", path, headers=asking)
            assert (response.status_code, response.headers["access-control-allow-headers"]) == (
                200,
                "authorization",
            )


@report("RouteLLM#43", "a client asks at /v1/v1/…, and is told nothing but 404")
async def a_path_twice(house):
    response = await house.client.post("/v1/v1/chat/completions", json={"model": "m", "messages": [USER]})
    assert (response.status_code, "/v1/chat/completions" in error_of(response)["message"]) == (404, True)


@report("envoyproxy/ai-gateway#527, #805", "a request of a megabyte is a 500")
async def large_requests(house):
    turn = {"role": "user", "content": "x" * (1 << 20)}
    assert (await sent(house, "/v1/chat/completions", messages=[turn]))[0] == turn


@report("litellm#37140, #36123, #31499, mesh-llm#1406", "a client leaves, and the node goes on for nobody")
async def clients_that_leave(house):
    async def answer(request, writer):
        await request.gone.wait()

    house.node.answer = answer
    for number, stream in enumerate((False, True)):
        asking = asyncio.create_task(house.chat(stream=stream))
        async with asyncio.timeout(10):
            while len(house.node.requests) <= number:
                await asyncio.sleep(0.01)
            asking.cancel()
            await house.node.requests[number].gone.wait()


@report("litellm#7000, #9584", "a look at the gateway's health makes models answer")
async def looks_at_health(house):
    for path in ("/health", "/healthz", "/ready", "/v1/models"):
        assert (await house.client.get(path)).status_code in {200, 401}
    assert not house.node.requests


@report("olla#40, llama-swap#236", "tokens come in lumps, because the proxy waits for more")
async def tokens_at_once(house):
    go_on = asyncio.Event()

    async def answer(request, writer):
        writer.write(STREAM_HEAD + framed(chunk({"content": "first"})))
        await go_on.wait()
        writer.write(b"".join(framed(event) for event in END) + b"0\r\n\r\n")

    house.node.answer = answer
    body = {"model": "m", "stream": True, "messages": [USER]}
    async with (
        asyncio.timeout(10),
        house.client.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        assert response.headers["x-accel-buffering"] == "no"
        pieces = response.aiter_bytes()
        assert b"first" in await anext(pieces)
        go_on.set()
        assert [piece async for piece in pieces]


@report("production-stack#706, #749", "one server that answers nothing hangs whoever is sent to it")
async def a_server_that_hangs(_):
    async with make_house(first_byte_timeout_s=0.1) as house:

        async def answer(request, writer):
            await request.gone.wait()

        house.node.answer = answer
        response = await house.chat()
        assert response.status_code in {503, 504}
        assert "retry-after" in response.headers


@report("litellm#38606, #32835", "a stream is begun again, and the client reads its words twice")
async def no_words_twice(_):
    async with make_house(nodes=2) as house:
        for node in house.nodes:
            tell_node(node, chunk({"content": "Hello"}))
        told = (await house.chat(stream=True)).text
        assert (told.count("Hello"), "node_lost" in told) == (1, True)


def tell_node(node, *events: bytes) -> None:
    async def answer(request, writer):
        writer.write(STREAM_HEAD + b"".join(framed(event) for event in events))
        writer.close()

    node.answer = answer


@pytest.mark.parametrize("kept", REPORTS, ids=lambda kept: kept.replay.__name__)
async def test_a_report_is_none_of_ours(house, kept):
    async with asyncio.timeout(30):
        await kept.replay(house)


def test_each_report_has_a_number_and_words():
    assert all("#" in kept.numbers and len(kept.words) > 20 for kept in REPORTS)
    assert len({kept.words for kept in REPORTS}) == len(REPORTS)
