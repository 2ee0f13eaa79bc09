"""The body of `POST /v1/embeddings`; PARAMETERS.md says what each parameter does."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from neuron.api.bodies.decode import decode_body, require_model
from neuron.api.bodies.generation import Inputs, Name, each_input
from neuron.api.errors import invalid

MAX_INPUTS = 2048  # OpenAI's


class EmbeddingBody(Struct, forbid_unknown_fields=True, kw_only=True):
    model: Name | UnsetType = UNSET
    input: Inputs = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    task: Name | None = None  # by which the model knows a prompt
    user: str | None = None  # accepted; changes nothing

    @property
    def inputs(self) -> list[str | list[int]]:
        """The texts and lists of tokens to embed."""
        return each_input(self.input)


_decoder = msgspec.json.Decoder(EmbeddingBody)


def decode(body: bytes) -> EmbeddingBody:
    """The body of an embedding request. Raises `ApiError` 400 that names what is wrong."""
    request = decode_body(_decoder, body)
    require_model(request.model)
    if not request.inputs:
        raise invalid("input", "input: at least one is required.")
    if len(request.inputs) > MAX_INPUTS:
        raise invalid("input", f"input has {len(request.inputs)} parts; {MAX_INPUTS} are allowed.")
    if any(isinstance(part, int) for part in request.inputs):
        raise invalid("input", "input mixes token ids with other inputs.")
    return request
