"""A table of what servers send: the same answers on each wire, and the quirks of real servers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from helexa_acp.provider.sse import SseEvent
from helexa_acp.provider.types import (
    Finish,
    FinishReason,
    ReasoningDelta,
    ReasoningState,
    TextDelta,
    ToolCallArgsDelta,
    ToolCallEnd,
    ToolCallStart,
    Usage,
    UsageStats,
)

STOP, LENGTH, CALLS, REFUSAL, PAUSE = (
    Finish(reason)
    for reason in (
        FinishReason.STOP,
        FinishReason.LENGTH,
        FinishReason.TOOL_CALLS,
        FinishReason.REFUSAL,
        FinishReason.PAUSE,
    )
)


@dataclass(frozen=True)
class Case:
    name: str
    wire: str
    sent: list[Any]  # payloads: objects, or strings sent as they are
    events: list[Any] | str  # the neutral events, or a part of the error's message
    text_tools: bool = False
    event_names: bool = False

    def sse(self) -> list[SseEvent]:
        return [
            SseEvent(
                p if isinstance(p, str) else json.dumps(p), p.get("type", "") if isinstance(p, dict) else ""
            )
            for p in self.sent
        ]


def chat(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta}]}


def call(index: Any = None, id_: Any = None, name: Any = None, args: Any = None) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", args)) if value is not None}
    known = {key: value for key, value in (("index", index), ("id", id_)) if value is not None}
    return chat(tool_calls=[{"function": function, **known}])


def end(reason: str | None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}


def usage(prompt: int = 3, completion: int = 4, **more: Any) -> dict[str, Any]:
    return {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion, **more}}


def T(text):  # noqa: N802
    return TextDelta(text)


def R(text):  # noqa: N802
    return ReasoningDelta(text)


def called(index, id_, name, *args):
    return [ToolCallStart(index, id_, name), *(ToolCallArgsDelta(index, a) for a in args)]


U = Usage(UsageStats(3, 4))


def ev(kind: str, **body: Any) -> dict[str, Any]:
    return {"type": kind, **body}


def item(kind: str, index: int, **body: Any) -> dict[str, Any]:
    return ev(f"response.output_item.{kind}", output_index=index, item=body)


def completed(output=(), status="completed", **more: Any) -> dict[str, Any]:
    response = {
        "status": status,
        "output": list(output),
        "usage": {"input_tokens": 3, "output_tokens": 4},
        **more,
    }
    return ev(f"response.{status}", response=response)


def block(index: int, **body: Any) -> dict[str, Any]:
    return ev("content_block_start", index=index, content_block=body)


def delta(index: int, kind: str, **body: Any) -> dict[str, Any]:
    return ev("content_block_delta", index=index, delta={"type": kind, **body})


def stop(index: int) -> dict[str, Any]:
    return ev("content_block_stop", index=index)


START = ev("message_start", message={"usage": {"input_tokens": 3, "output_tokens": 1}})


def ends(reason: str) -> list[dict[str, Any]]:
    return [
        ev("message_delta", delta={"stop_reason": reason}, usage={"output_tokens": 4}),
        ev("message_stop"),
    ]


C, O, A = "openai-chat", "openai-responses", "anthropic-messages"  # noqa: E741

FC = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "read"}

CASES = [
    # The same answers on every wire.
    Case("text", C, [chat(content="Hel"), chat(content="lo"), end("stop"), usage(), "[DONE]"], [T("Hel"), T("lo"), STOP, U]),
    Case("text", O, [ev("response.output_text.delta", output_index=0, delta="Hel"),
                     ev("response.output_text.delta", output_index=0, delta="lo"), completed()], [T("Hel"), T("lo"), STOP, U]),
    Case("text", A, [START, block(0, type="text", text=""), delta(0, "text_delta", text="Hel"), ev("ping"),
                     delta(0, "text_delta", text="lo"), stop(0), *ends("end_turn")], [T("Hel"), T("lo"), STOP, U]),
    Case("reasoning", C, [chat(reasoning_content="hm"), chat(content="a"), end("stop")], [R("hm"), T("a"), STOP]),
    Case("reasoning", O, [ev("response.reasoning_summary_text.delta", output_index=0, delta="hm"),
                          ev("response.output_text.delta", output_index=1, delta="a"), completed()],
         [R("hm"), T("a"), STOP, U]),
    Case("reasoning", A, [START, block(0, type="thinking", thinking=""), delta(0, "thinking_delta", thinking="hm"),
                          delta(0, "signature_delta", signature="sig"), stop(0), delta(1, "text_delta", text="a"),
                          *ends("end_turn")],
         [R("hm"), ReasoningState({"type": "thinking", "thinking": "hm", "signature": "sig"}), T("a"), STOP, U]),
    Case("call", C, [call(0, "c1", "read", ""), call(0, args='{"pa'), call(0, args='th":"a"}'), end("tool_calls")],
         [*called(0, "c1", "read", '{"pa', 'th":"a"}'), ToolCallEnd(0), CALLS]),
    Case("call", O, [item("added", 0, **FC, arguments=""),
                     ev("response.function_call_arguments.delta", output_index=0, delta='{"pa'),
                     ev("response.function_call_arguments.delta", output_index=0, delta='th":"a"}'),
                     ev("response.function_call_arguments.done", output_index=0, arguments='{"path":"a"}'), completed()],
         [*called(0, "c1", "read", '{"pa', 'th":"a"}'), ToolCallEnd(0), CALLS, U]),
    Case("call", A, [START, block(0, type="tool_use", id="c1", name="read", input={}),
                     delta(0, "input_json_delta", partial_json='{"pa'), delta(0, "input_json_delta", partial_json='th":"a"}'),
                     stop(0), *ends("tool_use")], [*called(0, "c1", "read", '{"pa', 'th":"a"}'), ToolCallEnd(0), CALLS, U]),
    Case("two calls interleaved", C, [call(0, "c1", "a", "{"), call(1, "c2", "b", "{"), call(0, args="}"), call(1, args="}"),
                                      end("tool_calls")],
         [*called(0, "c1", "a", "{"), *called(1, "c2", "b", "{"), ToolCallArgsDelta(0, "}"), ToolCallArgsDelta(1, "}"),
          ToolCallEnd(0), ToolCallEnd(1), CALLS]),
    Case("two calls interleaved", O, [item("added", 0, **FC), item("added", 1, **{**FC, "id": "fc_2", "call_id": "c2"}),
                                      ev("response.function_call_arguments.delta", item_id="fc_2", delta="{}"),
                                      ev("response.function_call_arguments.delta", item_id="fc_1", delta="{}"), completed()],
         [ToolCallStart(0, "c1", "read"), ToolCallStart(1, "c2", "read"), ToolCallArgsDelta(1, "{}"),
          ToolCallArgsDelta(0, "{}"), ToolCallEnd(0), ToolCallEnd(1), CALLS, U]),
    Case("no arguments", C, [call(0, "c1", "list"), end("tool_calls")], [*called(0, "c1", "list"), ToolCallEnd(0), CALLS]),
    Case("no arguments", O, [item("done", 0, **FC, arguments=""), completed()], [*called(0, "c1", "read"), ToolCallEnd(0), CALLS, U]),
    Case("no arguments", A, [START, block(0, type="tool_use", id="c1", name="read", input={}), stop(0), *ends("tool_use")],
         [*called(0, "c1", "read"), ToolCallEnd(0), CALLS, U]),
    Case("length", C, [chat(content="a"), end("length")], [T("a"), LENGTH]),
    Case("length", O, [ev("response.output_text.delta", output_index=0, delta="a"),
                       completed(status="incomplete", incomplete_details={"reason": "max_output_tokens"})], [T("a"), LENGTH, U]),
    Case("length", A, [START, delta(0, "text_delta", text="a"), *ends("max_tokens")], [T("a"), LENGTH, U]),
    Case("refusal", C, [chat(refusal="no"), end("stop")], [T("no"), REFUSAL]),
    Case("refusal", O, [ev("response.refusal.delta", output_index=0, delta="no"), completed()], [T("no"), REFUSAL, U]),
    Case("refusal", A, [START, delta(0, "text_delta", text="no"), *ends("refusal")], [T("no"), REFUSAL, U]),
    Case("broken payload is skipped", C, [chat(content="a"), "{not json", chat(content="b"), "[DONE]"], [T("a"), T("b"), STOP]),
    Case("broken payload is skipped", O, [ev("response.output_text.delta", output_index=0, delta="a"), "{", completed()],
         [T("a"), STOP, U]),
    Case("broken payload is skipped", A, [START, "{", delta(0, "text_delta", text="a"), *ends("end_turn")], [T("a"), STOP, U]),
    Case("cut before its end", C, [chat(content="a")], "before its end"),
    Case("cut before its end", O, [ev("response.output_text.delta", output_index=0, delta="a")], "before its end"),
    Case("cut before its end", A, [START, delta(0, "text_delta", text="a")], "before its end"),
    Case("error in the stream", C, [chat(content="a"), {"error": {"message": "went wrong", "code": 500}}], "went wrong"),
    Case("error in the stream", O, [ev("error", code="server_error", message="went wrong")], "went wrong"),
    Case("error in the stream", A, [START, ev("error", error={"type": "overloaded_error", "message": "went wrong"})], "went wrong"),
    Case("empty texts", C, [chat(content=""), chat(content=None), end("stop")], [STOP]),
    Case("empty texts", O, [ev("response.output_text.delta", output_index=0, delta=""), completed()], [STOP, U]),
    Case("empty texts", A, [START, delta(0, "text_delta", text=""), *ends("end_turn")], [STOP, U]),
    Case("unknown events", O, [ev("response.created"), ev("response.new_thing", x=1), completed()], [STOP, U]),
    Case("unknown events", A, [START, ev("new_thing"), delta(0, "new_delta"), *ends("end_turn")], [STOP, U]),
    Case("[DONE] where it does not belong", A, [START, delta(0, "text_delta", text="a"), *ends("end_turn"), "[DONE]"],
         [T("a"), STOP, U]),
    # Quirks of chat completions.
    Case("index missing, new id", C, [call(None, "c1", "a", "{}"), call(None, "c2", "b", "{}"), end("tool_calls")],
         [*called(0, "c1", "a", "{}"), *called(1, "c2", "b", "{}"), ToolCallEnd(0), ToolCallEnd(1), CALLS]),
    Case("index and id missing, whole calls", C, [call(None, None, "a", "{}"), call(None, None, "a", '{"b":1}'), end("stop")],
         [*called(0, "call_0", "a", "{}"), *called(1, "call_1", "a", '{"b":1}'), ToolCallEnd(0), ToolCallEnd(1), CALLS]),
    Case("index missing, fragments", C, [call(None, "c1", "a", "{"), call(None, args="}"), end("tool_calls")],
         [*called(0, "c1", "a", "{", "}"), ToolCallEnd(0), CALLS]),
    Case("index always 0", C, [call(0, "c1", "a", "{}"), call(0, "c2", "b", "{}"), end("tool_calls")],
         [*called(0, "c1", "a", "{}"), *called(1, "c2", "b", "{}"), ToolCallEnd(0), ToolCallEnd(1), CALLS]),
    Case("index from 1 and sparse", C, [call(1, "c1", "a", "{}"), call(5, "c2", "b", "{}"), end("tool_calls")],
         [*called(0, "c1", "a", "{}"), *called(1, "c2", "b", "{}"), ToolCallEnd(0), ToolCallEnd(1), CALLS]),
    Case("id missing", C, [call(0, None, "a", "{}"), end("tool_calls")], [*called(0, "call_0", "a", "{}"), ToolCallEnd(0), CALLS]),
    Case("id and name in every chunk", C, [call(0, "c1", "a", "{"), call(0, "c1", "a", "}"), call(0, "c1", "", ""), end("stop")],
         [*called(0, "c1", "a", "{", "}"), ToolCallEnd(0), CALLS]),
    Case("arguments as an object", C, [call(0, "c1", "a", {"x": 1}), end("tool_calls")],
         [*called(0, "c1", "a", '{"x": 1}'), ToolCallEnd(0), CALLS]),
    Case("arguments null", C, [chat(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "a", "arguments": None}}]),
                               end("tool_calls")], [*called(0, "c1", "a"), ToolCallEnd(0), CALLS]),
    Case("arguments before the name", C, [call(0, "c1", None, '{"a'), call(0, None, "a", '":1}'), end("tool_calls")],
         [ToolCallStart(0, "c1", "a"), ToolCallArgsDelta(0, '{"a'), ToolCallArgsDelta(0, '":1}'), ToolCallEnd(0), CALLS]),
    Case("name never told", C, [call(0, "c1", None, '{"command":"ls"}'), end("tool_calls")],
         [*called(0, "c1", "shell", '{"command":"ls"}'), ToolCallEnd(0), CALLS]),
    Case("tool_calls null", C, [chat(content="a", tool_calls=None), end("stop")], [T("a"), STOP]),
    Case("old function_call", C, [chat(function_call={"name": "a", "arguments": "{"}), chat(function_call={"arguments": "}"}),
                                  end("function_call")], [*called(0, "call_0", "a", "{", "}"), ToolCallEnd(0), CALLS]),
    Case("finish stop with calls", C, [call(0, "c1", "a", "{}"), end("stop")], [*called(0, "c1", "a", "{}"), ToolCallEnd(0), CALLS]),
    Case("finish end_turn", C, [chat(content="a"), end("end_turn")], [T("a"), STOP]),
    Case("finish missing, call whole", C, [call(0, "c1", "a", "{}")], [*called(0, "c1", "a", "{}"), ToolCallEnd(0), CALLS]),
    Case("finish missing, call half", C, [call(0, "c1", "a", '{"x":')], "before its end"),
    Case("finish tool_calls without calls", C, [chat(content="a"), end("tool_calls")], [T("a"), STOP]),
    Case("finish error", C, [chat(content="a"), end("error")], "ended the answer with an error"),
    Case("finish on an early reasoning chunk", C, [{"choices": [{"delta": {"reasoning": "hm"}, "finish_reason": "stop"}]},
                                                   chat(content="a"), end("stop")], [R("hm"), T("a"), STOP]),
    Case("usage on every chunk", C, [{**chat(content="a"), "usage": {"prompt_tokens": 3, "completion_tokens": 1}},
                                     {**end("stop"), "usage": {"prompt_tokens": 3, "completion_tokens": 4}}], [T("a"), STOP, U]),
    Case("usage inside the choice", C, [chat(content="a"), {"choices": [{"delta": {}, "finish_reason": "stop", "usage": {
        "prompt_tokens": 3, "completion_tokens": 4}}]}], [T("a"), STOP, U]),
    Case("usage null", C, [{**chat(content="a"), "usage": None}, end("stop")], [T("a"), STOP]),
    Case("usage with cached tokens", C, [end("stop"), usage(prompt_tokens_details={"cached_tokens": 2})],
         [STOP, Usage(UsageStats(3, 4, 2))]),
    Case("reasoning in two fields", C, [chat(reasoning_content="hm", reasoning="hm"), end("stop")], [R("hm"), STOP]),
    Case("reasoning_details", C, [chat(reasoning_details=[{"type": "reasoning.text", "text": "hm"}]), chat(content="a"), end("stop")],
         [R("hm"), T("a"), ReasoningState({"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}), STOP]),
    Case("think tags across chunks", C, [chat(content="<th"), chat(content="ink>hm</thi"), chat(content="nk>\n\na"), end("stop")],
         [R("hm"), T("a"), STOP]),
    Case("think tag inside an answer", C, [chat(content="say <think> so"), end("stop")], [T("say <think> so"), STOP]),
    Case("content in parts", C, [chat(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                                               {"type": "text", "text": "a"}]), end("stop")], [R("hm"), T("a"), STOP]),
    Case("error as text", C, [{"error": "went wrong"}], "went wrong"),
    Case("error without a wrapper", C, [{"code": 500, "message": "went wrong"}], "went wrong"),
    Case("error in a choice", C, [{"choices": [{"error": {"message": "went wrong"}}]}], "went wrong"),
    Case("call as Hermes text", C, [chat(content="ok <tool_"), chat(content='call>{"name":"a","arguments":{"x":1}}</tool_call>'),
                                    end("stop")],
         [T("ok "), *called(0, "call_0", "a", '{"x": 1}'), ToolCallEnd(0), CALLS], text_tools=True),
    Case("call as Mistral text", C, [chat(content='[TOOL_CALLS][{"name":"a","arguments":{}}]'), end("stop")],
         [*called(0, "call_0", "a", "{}"), ToolCallEnd(0), CALLS], text_tools=True),
    Case("text call with a brace too many", C, [chat(content='<tool_call>{"name":"a","arguments":{}}}</tool_call>'), end("stop")],
         [*called(0, "call_0", "a", "{}"), ToolCallEnd(0), CALLS], text_tools=True),
    Case("text call that is broken stays text", C, [chat(content="<tool_call>nonsense</tool_call>"), end("stop")],
         [T("<tool_call>nonsense</tool_call>"), STOP], text_tools=True),
    # Quirks of Responses.
    Case("only done events", O, [ev("response.output_text.done", output_index=0, content_index=0, text="a"),
                                 item("done", 1, **FC, arguments="{}"), completed()],
         [T("a"), *called(0, "c1", "read", "{}"), ToolCallEnd(0), CALLS, U]),
    Case("only the final response", O, [completed([{"type": "message", "content": [{"type": "output_text", "text": "a"}]},
                                                   {**FC, "arguments": "{}"}])],
         [T("a"), *called(0, "c1", "read", "{}"), ToolCallEnd(0), CALLS, U]),
    Case("everything three times", O, [
        item("added", 0, **FC), ev("response.function_call_arguments.delta", output_index=0, item_id="fc_1", delta="{}"),
        item("done", 0, **FC, arguments="{}"), completed([{**FC, "arguments": "{}"}])],
         [*called(0, "c1", "read", "{}"), ToolCallEnd(0), CALLS, U]),
    Case("encrypted reasoning", O, [item("done", 0, type="reasoning", id="rs", summary=[{"text": "hm"}], encrypted_content="x"),
                                    completed()],
         [R("hm"), ReasoningState({"type": "reasoning", "id": "rs", "summary": [{"text": "hm"}], "encrypted_content": "x"}),
          STOP, U]),
    Case("failed", O, [ev("response.failed", response={"status": "failed", "error": {"code": "x", "message": "went wrong"}})],
         "went wrong"),
    Case("content filter", O, [completed(status="incomplete", incomplete_details={"reason": "content_filter"})], [REFUSAL, U]),
    # Quirks of Anthropic messages.
    Case("whole input at the start", A, [START, block(0, type="tool_use", id="c1", name="read", input={"x": 1}), stop(0),
                                         *ends("tool_use")], [*called(0, "c1", "read", '{"x": 1}'), ToolCallEnd(0), CALLS, U]),
    Case("redacted thinking", A, [START, block(0, type="redacted_thinking", data="x"), stop(0), *ends("end_turn")],
         [ReasoningState({"type": "redacted_thinking", "data": "x"}), STOP, U]),
    Case("cached input counts", A, [ev("message_start", message={"usage": {
        "input_tokens": 1, "cache_read_input_tokens": 2, "cache_creation_input_tokens": 4, "output_tokens": 1}}), *ends("end_turn")],
         [STOP, Usage(UsageStats(7, 4, 2, 4))]),
    Case("pause", A, [START, delta(0, "text_delta", text="a"), *ends("pause_turn")], [T("a"), PAUSE, U]),
]  # fmt: skip
