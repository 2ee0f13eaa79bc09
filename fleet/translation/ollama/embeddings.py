"""An upstream's embeddings as Ollama's."""

from __future__ import annotations

import msgspec

from neuron.wire import ApiError


class _Embedding(msgspec.Struct):
    embedding: msgspec.Raw
    index: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0


class _Answer(msgspec.Struct):
    data: list[_Embedding]
    usage: _Usage | None = None


_answers = msgspec.json.Decoder(_Answer)


def embed_answer(body: bytes, model: str, seconds: float) -> bytes:
    """The body of an answer of `/api/embed` that took `seconds`. Raises `ApiError` where there is none."""
    answer = _read(body)
    vectors = [entry.embedding for entry in answer.data]
    fields = {"model": model, "embeddings": vectors, "total_duration": round(seconds * 1e9)}
    count = answer.usage.prompt_tokens if answer.usage else 0
    return msgspec.json.encode(fields | {"load_duration": 0, "prompt_eval_count": count})


def embeddings_answer(body: bytes) -> bytes:
    """The body of an answer of `/api/embeddings`. Raises `ApiError` where there is none."""
    return msgspec.json.encode({"embedding": _read(body).data[0].embedding})


def _read(body: bytes) -> _Answer:
    try:
        answer = _answers.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _none() from error
    if not answer.data:
        raise _none()
    answer.data.sort(key=lambda entry: entry.index)
    return answer


def _none() -> ApiError:
    return ApiError(502, "upstream_malformed", "the upstream's answer has no embeddings")
