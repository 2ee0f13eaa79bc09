"""Translation between clients' dialects and OpenAI chat, which upstreams speak.

Sans-I/O: bytes in, bytes or events out; no Django, no sockets, no clock. The data plane uses it where a
client's dialect differs from its upstream's. Around one neutral stream (`events`) stand a reader for
upstreams (`chat`) and a package for each dialect of clients (`messages`, `responses`, `ollama`):

    call = translation.messages.to_chat(body)               ApiError 400 when the body is wrong
    send call.body, streaming when call.stream

    not streaming:  translation.messages.from_chat(answer, call.model)  ApiError when it is no answer
    streaming:      reader = translation.ChatReader(request_id=id)
                    writer = translation.MessagesWriter(call.model)
                    for each piece:  writer.write(reader.feed(piece))
                    at its end:      writer.write(reader.close())
                    it broke off:    translation.messages.error_event(error), and no close
    while waiting:  translation.messages.PING
    refused:        translation.messages.error_body(error)
    count_tokens:   translation.messages.to_count(body), then count_body(tokens)

A stream ends with exactly one `Stop` or `Failure`, which tells the gateway how the request ended. Reader and
writer accept bytes cut anywhere, and hold back nothing that they could write.
"""

from __future__ import annotations

from fleet.translation import messages, ollama, responses
from fleet.translation.chat import ChatReader, failure_alone, read_completion
from fleet.translation.messages import ChatCall, MessagesWriter

__all__ = [
    "ChatCall",
    "ChatReader",
    "MessagesWriter",
    "failure_alone",
    "messages",
    "ollama",
    "read_completion",
    "responses",
]
