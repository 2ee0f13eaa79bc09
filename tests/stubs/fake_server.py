"""An OpenAI-compatible server that is no neuron: a list of models in some server's shape, and chat."""

from __future__ import annotations

import json

from tests.stubs.fake_node import FakeNode, answer_hello, head

MODEL = {"object": "model", "created": 1}
LISTS = {
    "vllm": {
        "object": "list",
        "data": [MODEL | {"id": "m", "owned_by": "vllm", "root": "m", "parent": None, "max_model_len": 8192}],
    },
    "llama.cpp": {
        "models": [{"name": "m", "model": "m", "capabilities": ["completion"]}],
        "object": "list",
        "data": [
            MODEL
            | {"id": "m", "owned_by": "llamacpp", "meta": {"vocab_type": 1, "n_ctx": 8192, "n_params": 9}}
        ],
    },
    "ollama": {"object": "list", "data": [MODEL | {"id": "m", "owned_by": "library"}]},
    "litellm": {
        "object": "list",
        "data": [MODEL | {"id": "m", "max_input_tokens": 8192, "max_output_tokens": 9}],
    },
    "together": [MODEL | {"id": "m", "context_length": 8192}],
}


class FakeServer(FakeNode):
    """`prefix` is the path of its API; with `key` it lets nobody else in. `polls` counts lists asked for."""

    def __init__(self, name: str = "server", *, prefix: str = "/v1", key: str = "") -> None:
        super().__init__(name)
        self.prefix = prefix
        self.key = key
        self.list: object = LISTS["vllm"]
        self.list_status = 200
        self.polls = 0

    async def _respond(self, request, reader, writer) -> None:
        if self.key and request.headers.get("authorization") != f"bearer {self.key}":
            self.requests.append(request)
            _write(writer, 401, {"error": {"message": f"Incorrect API key, not {self.key}", "code": None}})
        elif request.path == f"{self.prefix}/models":
            self.polls += 1
            _write(writer, self.list_status, self.list)
        elif request.path.startswith((self.prefix, "/tokenize")):
            await super()._respond(request, reader, writer)
        else:
            _write(writer, 404, {"detail": "Not Found"})
        await writer.drain()


def _write(writer, status: int, payload: object) -> None:
    body = json.dumps(payload).encode()
    writer.write(head(status, content_length=len(body)) + body)


async def refuse_usage(request, writer) -> None:
    """A server that knows no `stream_options`, as FastAPI says it."""
    if "stream_options" in request.json:
        detail = [{"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]
        _write(writer, 422, {"detail": detail})
        return
    await answer_hello(request, writer)
