"""What an answer must look like, by `response_format` and its like, `tool_choice` and strict tools."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from neuron.api.bodies.chat import ChatBody, FunctionTool, NamedTool
from neuron.api.bodies.guided import GuidedBody
from neuron.harness import LocalModel
from neuron.pipe import AnswerGrammar
from neuron.text.constraint import AnswerConstraint
from neuron.text.content import AnswerContent, ChoiceContent, GrammarContent, RegexContent, content_problem
from neuron.text.grammar import UnenforceableSchemaError
from neuron.text.json_schema.check import CheckedSchema, check_schema
from neuron.text.json_schema.objects import outline
from neuron.text.schema import ANY_OBJECT, Schema
from neuron.wire import ApiError

SCHEMA_TIMEOUT_S = 5.0  # the library's own limits end it earlier


async def answer_constraint(body: ChatBody, unenforced: list[str]) -> AnswerConstraint | None:
    """What the answer is held to; None when it is free. Schemas are checked, off the event loop.

    Of a schema that is not strict, the keywords that cannot be enforced are added to `unenforced`, each by
    its place in the body. Raises `ApiError` 400 for a schema that must be enforced and cannot be.
    """
    content = await answer_content(body, unenforced)
    tools = [(index, tool) for index, tool in enumerate(body.tools or ()) if body.may_call(tool)]
    is_strict = any(tool.function.strict for _, tool in tools)
    if content is None and not body.must_call and not body.chosen_tools and not is_strict:
        return None
    calls = [(tool.function.name, await _call_schema(tool, index, unenforced)) for index, tool in tools]
    return AnswerConstraint(
        content=content,
        calls=calls,
        must_call=body.must_call,
        is_parallel=body.parallel_tool_calls is not False and not isinstance(body.tool_choice, NamedTool),
    )


def constraint_grammar(
    body: ChatBody, model: LocalModel, constraint: AnswerConstraint, prompt: str, unenforced: list[str]
) -> AnswerGrammar:
    """The constraint in the model's own notation. Raises `ApiError` 400 when that cannot express it.

    Of tools that are not strict it holds the outline, where it can express no more.
    """
    try:
        try:
            lark = model.text.grammar(constraint, prompt)
        except UnenforceableSchemaError:
            lark = model.text.grammar(_outlined(body, model, constraint, unenforced), prompt)
    except UnenforceableSchemaError as error:
        param = constraining_param(body)
        raise ApiError(400, "invalid_schema", f"{param} cannot be enforced: {error}", param=param) from error
    return AnswerGrammar(lark, list(model.text.eos_ids))


def _outlined(
    body: ChatBody, model: LocalModel, constraint: AnswerConstraint, unenforced: list[str]
) -> AnswerConstraint:
    """The constraint with outlines of the tools that are not strict and that the notation cannot express."""
    places = {tool.function.name: index for index, tool in enumerate(body.tools or ())}
    strict = {tool.function.name for tool in body.tools or () if tool.function.strict}
    calls: list[tuple[str, Schema]] = []
    for name, schema in constraint.calls:
        try:
            model.text.grammar(AnswerConstraint(calls=[(name, schema)], must_call=True), "")
            calls.append((name, schema))
        except UnenforceableSchemaError:
            if name in strict:
                raise
            calls.append((name, outline(schema)))
            unenforced.append(f"tools[{places[name]}].function.parameters")
    return replace(constraint, calls=calls)


async def completion_grammar(
    body: GuidedBody, model: LocalModel, unenforced: list[str]
) -> AnswerGrammar | None:
    """The grammar of a bare completion; None when it is free. Raises `ApiError`, as `answer_constraint`."""
    content = await answer_content(body, unenforced)
    if content is None:
        return None
    return AnswerGrammar(model.text.text_grammar(content), list(model.text.eos_ids))


def constraining_param(body: ChatBody) -> str:
    """The parameter that an error about the answer's grammar names."""
    if wanted := body.wanted:
        return wanted.param
    return "tool_choice" if body.must_call or body.chosen_tools else "tools"


async def answer_content(body: GuidedBody, unenforced: list[str]) -> AnswerContent | None:
    """The form of the answer's text; None when it is free. Raises `ApiError` 400, as `answer_constraint`."""
    wanted = body.wanted
    if wanted is None:
        return None
    content: AnswerContent
    match wanted.kind:
        case "json_object":
            return ANY_OBJECT
        case "json":
            checked = await _checked(wanted.value, is_strict=wanted.is_strict)
            return _enforced(checked, wanted.param, unenforced)
        case "choice":
            content = ChoiceContent(wanted.value)
        case "regex":
            content = RegexContent(wanted.value)
        case "grammar":
            content = GrammarContent(wanted.value)
    if problem := await _content_problem(content):
        raise _unenforceable(wanted.param, problem)
    return content


async def _call_schema(tool: FunctionTool, index: int, unenforced: list[str]) -> Schema:
    """What a call's arguments are held to: any object, if a schema that is not strict cannot be enforced."""
    param = f"tools[{index}].function.parameters"
    schema = tool.function.parameters or ANY_OBJECT
    checked = await _checked(schema | ANY_OBJECT, is_strict=tool.function.strict is True)
    if checked.problem and not tool.function.strict:
        unenforced.append(param)
        return ANY_OBJECT
    return _enforced(checked, param, unenforced)


def _enforced(checked: CheckedSchema, param: str, unenforced: list[str]) -> Schema:
    if checked.problem:
        raise _unenforceable(param, checked.problem, checked.pointer)
    unenforced += (f"{param}{pointer}" for pointer in checked.unenforced)
    return checked.schema


def _unenforceable(param: str, problem: str, pointer: str = "") -> ApiError:
    return ApiError(400, "invalid_schema", f"{param}{pointer}: {problem}", param=param)


async def _checked(schema: Schema, *, is_strict: bool) -> CheckedSchema:
    try:
        return await asyncio.wait_for(
            asyncio.to_thread(check_schema, schema, is_strict=is_strict), SCHEMA_TIMEOUT_S
        )
    except TimeoutError:
        return CheckedSchema({}, problem=f"it takes longer than {SCHEMA_TIMEOUT_S:g} s to check")


async def _content_problem(content: AnswerContent) -> str | None:
    try:
        return await asyncio.wait_for(asyncio.to_thread(content_problem, content), SCHEMA_TIMEOUT_S)
    except TimeoutError:
        return f"it takes longer than {SCHEMA_TIMEOUT_S:g} s to check"
