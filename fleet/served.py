"""What an OpenAI-compatible server says it serves: `GET /v1/models` in the shapes that servers give it. Pure.

A list under `data` (OpenAI, vLLM, SGLang, Ollama), also null (Ollama without models) or bare (Together). The
longest context stands, if anywhere, under the names below.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

MAX_MODELS = 2000  # of one server; what is beyond is not routed to
MAX_BYTES = 8 << 20
MAX_ID_CHARS = 200
MAX_CONTEXT = 2**31 - 1
TOO_OFTEN = 429
NOT_SUPPORTED = frozenset({404, 405, 501})  # statuses of a server without such a list

_CONTEXTS = (
    "max_model_len",  # vLLM, SGLang
    "context_length",  # OpenRouter, Together
    "max_context_length",  # LM Studio, Mistral
    "context_window",  # Groq
    "max_input_tokens",  # LiteLLM
    "n_ctx",  # llama.cpp, under `meta`
)
_CAPABILITIES = frozenset({"chat", "completions", "embeddings", "reasoning", "tools", "vision"})


@dataclass(frozen=True, slots=True)
class Served:
    """One model of a server."""

    id: str  # as the fleet calls it
    context: int | None = None  # tokens
    capabilities: tuple[str, ...] = ()  # empty: not said


def read_models(body: bytes, names: Mapping[str, str]) -> list[Served]:
    """The models in a server's list, by id; with `names` (ours to its own) those alone, under our names.

    Raises `ValueError` saying what cannot be understood.
    """
    listed = {entry["id"]: entry for entry in _entries(body)}
    ours = names or {ident: ident for ident in listed}
    served = [_served(name, listed[own]) for name, own in ours.items() if own in listed]
    return sorted(served, key=lambda model: model.id)[:MAX_MODELS]


def unlisted(names: Mapping[str, str]) -> list[Served]:
    """What a server without a list is taken to serve: what the operator says."""
    return [Served(name) for name in sorted(names)]


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


def _served(name: str, entry: dict[str, Any]) -> Served:
    return Served(name, _context(entry), _capabilities(entry.get("capabilities")))


def _context(entry: dict[str, Any]) -> int | None:
    meta = entry.get("meta")
    for facts in (entry, meta if isinstance(meta, dict) else {}):
        for key in _CONTEXTS:
            value = facts.get(key)
            if type(value) is int and 0 < value <= MAX_CONTEXT:
                return value
    return None


def _capabilities(said: object) -> tuple[str, ...]:
    """Only a list that names what a request can ask for, in our words: others mean other things by it."""
    words = {word for word in said if isinstance(word, str)} if isinstance(said, list) else set()
    return tuple(sorted(words & _CAPABILITIES)) if words & {"chat", "embeddings"} else ()
