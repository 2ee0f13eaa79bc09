"""The parameters that hold an answer to a form: OpenAI's `response_format`, and vLLM's for more."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from neuron.api.bodies.generation import GenerationBody, Name
from neuron.api.errors import invalid, unsupported

MAX_CHOSEN = 2000  # texts of a choice

Choice = Annotated[list[Name], Meta(min_length=1, max_length=MAX_CHOSEN)]
JsonText = dict[str, Any] | str  # a schema, or its JSON


class JsonSchema(Struct, forbid_unknown_fields=True):
    name: Name
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(Struct, forbid_unknown_fields=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(Struct, forbid_unknown_fields=True):
    """One of the first five."""

    json: JsonText | None = None
    regex: Name | None = None
    choice: Choice | None = None
    grammar: Name | None = None
    json_object: bool | None = None
    # refused unless neutral
    structural_tag: Any = None
    whitespace_pattern: Any = None
    disable_fallback: Any = None
    disable_any_whitespace: Any = None
    disable_additional_properties: Any = None


class Wanted(NamedTuple):
    """The form of an answer, and the parameter that asks for it."""

    param: str
    kind: Literal["json", "json_object", "regex", "choice", "grammar"]
    value: Any
    is_strict: bool = False


class GuidedBody(GenerationBody, forbid_unknown_fields=True, kw_only=True):
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: JsonText | None = None
    guided_regex: Name | None = None
    guided_choice: Choice | None = None
    guided_grammar: Name | None = None

    @property
    def wanted(self) -> Wanted | None:
        """The form that the answer's text must have; None when it is free."""
        return next(iter(_each_wanted(self)), None)

    def refuse_contradictions(self) -> None:
        super().refuse_contradictions()
        _check_response_format(self.response_format)
        _check_structured_outputs(self.structured_outputs)
        wanted = _each_wanted(self)
        if len(wanted) > 1:
            param = wanted[1].param
            raise invalid(param, f"{param} contradicts {wanted[0].param}: an answer has one form.")
        if wanted:
            refuse_unguidable(self, wanted[0].param)


def refuse_unguidable(request: GenerationBody, cause: str) -> None:
    """Raise `ApiError` 400 for parameters that contradict a grammar: a guided answer ends where it does."""
    for name in ("ignore_eos", "min_tokens"):
        if getattr(request, name):
            raise invalid(name, f"{name} contradicts {cause}: such an answer ends when it is complete.")


def _each_wanted(body: GuidedBody) -> list[Wanted]:
    found: list[Wanted] = []
    wanted = body.response_format
    if wanted and wanted.type == "json_object":
        found.append(Wanted("response_format", "json_object", None))
    elif wanted and wanted.json_schema:
        asked = wanted.json_schema
        schema = {} if asked.schema is None else asked.schema
        found.append(Wanted("response_format.json_schema.schema", "json", schema, asked.strict is True))
    outputs = body.structured_outputs or StructuredOutputs()
    if outputs.json_object:
        found.append(Wanted("structured_outputs.json_object", "json_object", None))
    kinds: tuple[Literal["json", "regex", "choice", "grammar"], ...] = ("json", "regex", "choice", "grammar")
    for kind in kinds:
        for param, value in (
            (f"structured_outputs.{kind}", getattr(outputs, kind)),
            (f"guided_{kind}", getattr(body, f"guided_{kind}")),
        ):
            if value is not None:
                found.append(Wanted(param, kind, _schema(value, param) if kind == "json" else value))
    return found


def _schema(value: JsonText, param: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    try:
        return msgspec.json.decode(value, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as error:
        raise invalid(param, f"{param}: the text is no JSON Schema: {error}.") from error


def _check_response_format(wanted: ResponseFormat | None) -> None:
    if wanted and (wanted.type == "json_schema") != (wanted.json_schema is not None):
        param = "response_format.json_schema"
        raise invalid(param, f"{param} belongs to the type json_schema, which is {wanted.type!r} here.")


def _check_structured_outputs(outputs: StructuredOutputs | None) -> None:
    if outputs is None:
        return
    for name in ("structural_tag", "whitespace_pattern"):
        if getattr(outputs, name) is not None:
            param = f"structured_outputs.{name}"
            raise unsupported(param, f"{param} is not supported; json, regex, choice and grammar are.")
    for name in ("disable_fallback", "disable_any_whitespace", "disable_additional_properties"):
        if getattr(outputs, name) not in (None, False):
            param = f"structured_outputs.{name}"
            raise unsupported(param, f"{param} is not supported.")
