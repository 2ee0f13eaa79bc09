"""Neutral events as the stream of the Responses API.

    created  in_progress  (output_item.added  …  output_item.done)*  completed | incomplete | failed

Between an item's added and done come, for text and reasoning, a content part's added, its deltas, its text's
done and its own done; for a call, its arguments' deltas and done. Events are numbered, items have ids made
from the response's, and the last event holds the whole response as it is sent when nothing streams.
"""

from __future__ import annotations

from typing import Any

import msgspec

from fleet.translation.events import (
    Event,
    Failure,
    MessageStart,
    Phase,
    ReasoningDelta,
    ReasoningSignature,
    RedactedReasoning,
    Stop,
    TextDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
    Usage,
)
from fleet.translation.responses.call import ResponsesCall
from fleet.translation.responses.output import (
    AS_CONTENT,
    AS_SUMMARY,
    Json,
    call_item,
    call_status,
    end_fields,
    message_item,
    reasoning_item,
    text_part,
    text_status,
    usage_fields,
)
from fleet.translation.responses.sealed import Sealer
from fleet.translation.responses.tools import Origin, unwrap_input
from fleet.translation.writer import EventWriter


class ResponsesWriter(EventWriter):
    """Writes the event stream of the Responses API; `response` is the whole response so far.

    `created_at` is in seconds since the epoch. `ident` names the response; without it the upstream's id does,
    which may occur twice. What the client asks to have sealed, `sealer` seals.
    """

    def __init__(
        self, call: ResponsesCall, *, created_at: int, ident: str = "", sealer: Sealer | None = None
    ) -> None:
        super().__init__()
        self._sealer = sealer if call.seals else None
        self._thought = AS_SUMMARY if call.summarizes else AS_CONTENT
        self._id = ident
        self._item = ""  # the id of the open item
        self._tools = call.tools
        self._call = ("", Origin(""))  # id and tool, of an item that is a call
        self._pieces: list[str] = []  # of the open item's text or arguments
        self._sequence = 0
        self._output: list[Json] = []
        self.response: Json = {
            "id": "",
            "object": "response",
            "created_at": created_at,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            **call.echo,
            "output": self._output,
            "usage": None,
        }

    def _write(self, event: Event, before: Phase, after: Phase) -> None:
        match event:
            case TextDelta(text=text):
                if after is not before:
                    self._open(message_item(self._item_id("msg"), "in_progress", []))
                    self._event(
                        "response.content_part.added", **self._place(), content_index=0, part=text_part("")
                    )
                self._delta("response.output_text.delta", text, content_index=0, logprobs=[])
            case ReasoningDelta(text=text):
                if after is not before:
                    self._open_thought()
                self._delta(f"{self._thought.texts}.delta", text, **{self._thought.index: 0})
            case ToolCallArguments(fragment=fragment) if self._call[1].is_custom:
                self._pieces.append(fragment)  # the input is known once its JSON is complete
            case ToolCallArguments(fragment=fragment):
                self._delta("response.function_call_arguments.delta", fragment)
            case _:
                self._frame(event, before)

    def _frame(self, event: Event, before: Phase) -> None:
        match event:
            case MessageStart(id=id_, usage=usage):
                self._start(id_)
                self._count(usage)
            case ToolCallStart(id=id_, name=name):
                origin = self._tools.get(name) or Origin(name)
                self._call = (id_, origin)
                prefix = "ctc" if origin.is_custom else "fc"
                self._open(call_item(self._item_id(prefix), "in_progress", id_, origin, ""))
            case ToolCallEnd():
                self._end_call()
            case ReasoningSignature(signature=signature):
                self._end_thought(signature)
            case RedactedReasoning(data=data):
                item = reasoning_item(self._item_id("rs"), [], encrypted=data)
                self._open(item)
                self._close(item)
            case Usage():
                self._count(event)
            case Stop() | Failure():
                if before is Phase.BEFORE:
                    self._start("")
                self._finish(event)

    def _start(self, id_: str) -> None:
        self._id = self._id or id_.removeprefix("chatcmpl-")
        self.response["id"] = f"resp_{self._id}"
        self._event("response.created", response=self.response)
        self._event("response.in_progress", response=self.response)

    def _count(self, usage: Usage | None) -> None:
        if usage is not None:
            self.response["usage"] = usage_fields(usage)

    def _finish(self, end: Stop | Failure) -> None:
        self.response |= end_fields(end)
        self._event(f"response.{self.response['status']}", response=self.response)

    def _leave(self, phase: Phase, event: Event) -> None:
        """Close the item that `event` ends by being of another kind; a failure leaves it open."""
        if isinstance(event, Failure | ReasoningSignature):
            return
        if phase is Phase.TEXT:
            self._end_text(text_status(event))
        elif phase is Phase.REASONING:
            self._end_thought(None)

    def _end_text(self, status: str) -> None:
        text = "".join(self._pieces)
        self._event("response.output_text.done", **self._place(), content_index=0, text=text, logprobs=[])
        self._event("response.content_part.done", **self._place(), content_index=0, part=text_part(text))
        self._close(message_item(self._item, status, [text_part(text)]))

    def _open_thought(self) -> None:
        form = self._thought
        self._open(reasoning_item(self._item_id("rs"), []))
        self._event(f"{form.parts}.added", **self._place(), **{form.index: 0}, part=form.text(""))

    def _end_thought(self, signature: str | None) -> None:
        form, text = self._thought, "".join(self._pieces)
        place = self._place() | {form.index: 0}
        self._event(f"{form.texts}.done", **place, text=text)
        self._event(f"{form.parts}.done", **place, part=form.text(text))
        sealed = self._sealer.seal(text, signature) if self._sealer else signature
        self._close(reasoning_item(self._item, [form.text(text)], encrypted=sealed))

    def _end_call(self) -> None:
        if self._call[1].is_custom:
            self._end_custom_call()
            return
        if not self._pieces:
            self._delta("response.function_call_arguments.delta", "{}")
        arguments, (id_, origin) = "".join(self._pieces), self._call
        self._event(
            "response.function_call_arguments.done", **self._place(), name=origin.name, arguments=arguments
        )
        self._close(call_item(self._item, call_status(arguments), id_, origin, arguments))

    def _end_custom_call(self) -> None:
        arguments, (id_, origin) = "".join(self._pieces), self._call
        text = unwrap_input(arguments)
        self._delta("response.custom_tool_call_input.delta", text)
        self._event("response.custom_tool_call_input.done", **self._place(), input=text)
        self._close(call_item(self._item, call_status(arguments), id_, origin, text))

    def _item_id(self, prefix: str) -> str:
        return f"{prefix}_{self._id}_{len(self._output)}"

    def _place(self) -> Json:
        return {"item_id": self._item, "output_index": len(self._output)}

    def _open(self, item: Json) -> None:
        self._item = item["id"]
        self._pieces.clear()
        self._event("response.output_item.added", output_index=len(self._output), item=item)

    def _delta(self, kind: str, text: str, **more: Any) -> None:
        if text:
            self._pieces.append(text)
            self._event(kind, **self._place(), **more, delta=text)

    def _close(self, item: Json) -> None:
        self._event("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)

    def _event(self, kind: str, **fields: Any) -> None:
        payload = {"type": kind, "sequence_number": self._sequence} | fields
        self._sequence += 1
        self._out.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode(payload)))


class WholeResponse(ResponsesWriter):
    """Makes a response that is sent when nothing streams: its events are not written."""

    def _event(self, kind: str, **fields: Any) -> None:
        pass
