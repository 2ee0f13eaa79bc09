"""Dialects: what clients speak, translated to and from what upstreams speak (OpenAI chat).

Sans-I/O: bytes in, bytes or events out; no Django, no sockets, no clock. The data plane calls it where a
client's dialect is not its upstream's; traffic of one dialect never comes here. Around one neutral stream
(`events`) stand a reader for upstreams (`chat`) and a package for each dialect of clients (`messages`,
`responses`):

    call = translation.messages.to_chat(body)               ApiError 400 when the body is wrong
    send call.body, streaming when call.stream

    not streaming:  translation.messages.from_chat(answer, call.model)  ApiError when it is none
    streaming:      reader = translation.ChatReader(request_id=id)
                    writer = translation.MessagesWriter(call.model)
                    for each piece:  writer.write(reader.feed(piece))
                    at its end:      writer.write(reader.close())
                    it broke off:    translation.messages.error_event(error), and no close
    while waiting:  translation.messages.PING
    refused:        translation.messages.error_body(error)
    count_tokens:   translation.messages.to_count(body), then count_body(tokens)

A stream's last event is `Stop` or `Failure`, once; from it the gateway learns how the request ended. Reader
and writer take any cut of the bytes and hold back nothing that could be said.
"""

from __future__ import annotations

from fleet.translation import messages, responses
from fleet.translation.chat import ChatReader, read_completion
from fleet.translation.messages import ChatCall, MessagesWriter

__all__ = ["ChatCall", "ChatReader", "MessagesWriter", "messages", "read_completion", "responses"]
