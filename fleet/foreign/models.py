"""The models that an OpenAI-compatible server lists, in the shapes that `GET /v1/models` has. Pure.

The list stands under `data` (OpenAI, vLLM, SGLang, Ollama; null in an Ollama without models) or bare
(Together). A model's context length, if the server tells it, has one of the names below.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from fleet.foreign.errors import read_error

PATH = "/v1/models"
MAX_MODELS = 2000  # of one server; no request is routed to those beyond
MAX_BYTES = 8 << 20
MAX_ID_CHARS = 200
MAX_CONTEXT = 2**31 - 1

_CONTEXTS = (
    "max_model_len",  # vLLM, SGLang
    "context_length",  # OpenRouter, Together
    "max_context_length",  # LM Studio, Mistral
    "context_window",  # Groq
    "max_input_tokens",  # LiteLLM
    "n_ctx",  # llama.cpp, under `meta`
)
_CAPABILITIES = frozenset({"chat", "completions", "embeddings", "reasoning", "tools", "vision"})


TOO_MANY_REQUESTS = 429
_NO_LIST = frozenset({404, 405, 501})  # what a server without such a list answers
_KEY_REFUSED = frozenset({401, 403})


class ModelsError(ValueError):
    """A server's answer to `GET /v1/models` that tells nothing of its models; the message says why.

    `status` is the answer's.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class KeyRefusedError(ModelsError):
    """The server does not accept the operator's key."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model of a server."""

    id: str  # as the fleet calls it
    context: int | None = None  # tokens
    capabilities: tuple[str, ...] = ()  # empty: the server does not tell


def read_answer(status: int, body: bytes, names: Mapping[str, str]) -> list[ServedModel] | None:
    """The models of a server by its answer to `GET /v1/models`; None when it asks to be asked less often.

    `names` maps the operator's names to the server's. A server without a list is taken to serve what the
    operator names. Raises `ModelsError`.
    """
    if status == TOO_MANY_REQUESTS:
        return None
    if status in _NO_LIST and names:
        return [ServedModel(name) for name in sorted(names)]
    if status in _KEY_REFUSED:
        raise KeyRefusedError(status, f"does not accept the API key (GET {PATH}: {status})")
    if status != 200:
        raise ModelsError(status, f"GET {PATH} answered {status}: {read_error(status, body).message}")
    try:
        return read_models(body, names)
    except ValueError as error:
        raise ModelsError(status, str(error)) from error


def read_models(body: bytes, names: Mapping[str, str]) -> list[ServedModel]:
    """The models in a list, sorted by id; where `names` (ours to the server's) are given, only those.

    Raises `ValueError` with what cannot be understood.
    """
    listed = {entry["id"]: entry for entry in _entries(body)}
    ours = names or {ident: ident for ident in listed}
    models = [_model(name, listed[own]) for name, own in ours.items() if own in listed]
    return sorted(models, key=lambda model: model.id)[:MAX_MODELS]


def _entries(body: bytes) -> Iterator[dict[str, Any]]:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("its list of models is not JSON") from error
    entries = found.get("data") if isinstance(found, dict) else found
    if entries is not None and not isinstance(entries, list):
        raise ValueError("its list of models has no list under 'data'")
    for entry in entries or ():
        if isinstance(entry, dict) and _is_id(entry.get("id")):
            yield entry


def _is_id(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARS and value.isprintable()


def _model(name: str, entry: dict[str, Any]) -> ServedModel:
    return ServedModel(name, _context(entry), _capabilities(entry.get("capabilities")))


def _context(entry: dict[str, Any]) -> int | None:
    meta = entry.get("meta")
    for facts in (entry, meta if isinstance(meta, dict) else {}):
        for key in _CONTEXTS:
            value = facts.get(key)
            if type(value) is int and 0 < value <= MAX_CONTEXT:
                return value
    return None


def _capabilities(said: object) -> tuple[str, ...]:
    """Those that a request can ask for; a list without "chat" or "embeddings" means something else."""
    words = {word for word in said if isinstance(word, str)} if isinstance(said, list) else set()
    return tuple(sorted(words & _CAPABILITIES)) if words & {"chat", "embeddings"} else ()
