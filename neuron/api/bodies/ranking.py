"""The bodies of `POST /v1/rerank` and `POST /v1/score`; PARAMETERS.md says what each parameter does."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from neuron.api.bodies.decode import decode_body, require_model
from neuron.api.bodies.generation import Count, Name
from neuron.api.errors import invalid

MAX_PAIRS = 1000  # of one request, as Cohere and Jina have it
Pairs = list[tuple[str, str]]


class TextDocument(Struct):
    """A document as an object, of which the text counts."""

    text: str


class RankingBody(Struct, forbid_unknown_fields=True, kw_only=True):
    model: Name | UnsetType = UNSET
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1)] | None = None
    user: str | None = None  # accepted; changes nothing


class RerankBody(RankingBody, forbid_unknown_fields=True, kw_only=True):
    query: str | None = None
    documents: list[str | TextDocument] | None = None
    top_n: Count | None = None
    return_documents: bool | None = None
    max_tokens_per_doc: Count | None = None  # accepted: see truncate_prompt_tokens

    @property
    def texts(self) -> list[str]:
        return [given if isinstance(given, str) else given.text for given in self.documents or ()]


class ScoreBody(RankingBody, forbid_unknown_fields=True, kw_only=True):
    text_1: str | list[str] | None = None
    text_2: str | list[str] | None = None
    encoding_format: str | None = None  # accepted; changes nothing

    @property
    def pairs(self) -> Pairs:
        """The pairs: of one text with all others, or of two lists of one length."""
        first, second = _listed(self.text_1), _listed(self.text_2)
        if len(first) == 1:
            first *= len(second)
        return list(zip(first, second, strict=True))


_rerank = msgspec.json.Decoder(RerankBody)
_score = msgspec.json.Decoder(ScoreBody)


def decode_rerank(body: bytes) -> RerankBody:
    """The body of a request for a ranking. Raises `ApiError` 400 that names what is wrong."""
    request = decode_body(_rerank, body)
    require_model(request.model)
    if not request.query:
        raise invalid("query", "query: is required.")
    _check_count("documents", request.texts)
    return request


def decode_score(body: bytes) -> ScoreBody:
    """The body of a request for scores. Raises `ApiError` 400 that names what is wrong."""
    request = decode_body(_score, body)
    require_model(request.model)
    first, second = _listed(request.text_1), _listed(request.text_2)
    _check_count("text_1", first)
    _check_count("text_2", second)
    if len(first) not in {1, len(second)}:
        message = f"text_1 has {len(first)} texts and text_2 {len(second)}: give one, or as many of each."
        raise invalid("text_1", message)
    return request


def _listed(given: str | list[str] | None) -> list[str]:
    return [given] if isinstance(given, str) else given or []


def _check_count(param: str, texts: list[str]) -> None:
    if not texts:
        raise invalid(param, f"{param}: at least one is required.")
    if len(texts) > MAX_PAIRS:
        cure = "send the others in another request"
        raise invalid(param, f"{param} has {len(texts)} texts; {MAX_PAIRS} are allowed: {cure}.")
    if "" in texts:
        raise invalid(f"{param}[{texts.index('')}]", f"{param}[{texts.index('')}]: is empty.")
