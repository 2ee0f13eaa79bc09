"""What a chat's answer must look like, by `response_format`, `tool_choice` and strict tools."""

from __future__ import annotations

from neuron.api.bodies.chat import ChatBody, FunctionTool, NamedTool
from neuron.api.prompts.checks import Checks
from neuron.harness import LocalModel
from neuron.pipe import AnswerGrammar
from neuron.text.constraint import AnswerConstraint
from neuron.text.grammar import UnenforceableSchemaError
from neuron.text.schema import ANY_OBJECT, Schema
from neuron.wire import ApiError


async def answer_constraint(body: ChatBody, checks: Checks) -> AnswerConstraint | None:
    """What the answer is held to; None when it is free.

    Raises `ApiError`, 400 for a schema that must be enforced and cannot be.
    """
    content = await _content_schema(body, checks)
    tools = [(index, tool) for index, tool in enumerate(body.tools or ()) if body.may_call(tool)]
    is_strict = any(tool.function.strict for _, tool in tools)
    if content is None and not body.must_call and not body.chosen_tools and not is_strict:
        return None
    calls = [(tool.function.name, await _call_schema(tool, index, checks)) for index, tool in tools]
    return AnswerConstraint(
        content=content,
        calls=calls,
        must_call=body.must_call,
        is_parallel=body.parallel_tool_calls is not False and not isinstance(body.tool_choice, NamedTool),
    )


async def constraint_grammar(
    body: ChatBody, model: LocalModel, constraint: AnswerConstraint, prompt: str, checks: Checks
) -> AnswerGrammar:
    """The constraint in the model's own notation.

    Raises `ApiError`, 400 when that cannot express it and when compiling it takes too much.
    """
    param = constraining_param(body)
    try:
        grammar = AnswerGrammar(model.text.grammar(constraint, prompt), list(model.text.eos_ids))
    except UnenforceableSchemaError as error:
        raise ApiError(400, "invalid_schema", f"{param} cannot be enforced: {error}", param=param) from error
    if problem := await checks.grammar_problem(grammar, model.text.vocab_size):
        raise ApiError(400, "invalid_grammar", f"{param} cannot be enforced: {problem}", param=param)
    return grammar


def constraining_param(body: ChatBody) -> str:
    """The parameter that an error about the answer's grammar names."""
    if body.response_format is not None and body.response_format.type != "text":
        return "response_format"
    return "tool_choice" if body.must_call or body.chosen_tools else "tools"


async def _content_schema(body: ChatBody, checks: Checks) -> Schema | None:
    wanted = body.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.json_schema is None:
        return ANY_OBJECT
    schema = wanted.json_schema.schema
    if schema is None:
        return {}
    await _require_enforceable(schema, "response_format.json_schema.schema", checks)
    return schema


async def _call_schema(tool: FunctionTool, index: int, checks: Checks) -> Schema:
    """What a call's arguments are held to: any object, if a schema that is not strict cannot be enforced."""
    schema = tool.function.parameters or ANY_OBJECT
    if tool.function.strict:
        await _require_enforceable(schema, f"tools[{index}].function.parameters", checks)
        return schema
    return ANY_OBJECT if await checks.schema_problem(schema) else schema


async def _require_enforceable(schema: Schema, param: str, checks: Checks) -> None:
    if problem := await checks.schema_problem(schema):
        raise ApiError(400, "invalid_schema", f"{param} cannot be enforced: {problem}", param=param)
