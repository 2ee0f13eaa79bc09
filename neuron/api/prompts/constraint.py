"""What an answer must look like, by `response_format` and its like, `tool_choice` and strict tools."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from neuron.api.bodies.chat import ChatBody, FunctionTool, NamedTool
from neuron.api.bodies.guided import GuidedBody
from neuron.api.prompts.checks import Checks
from neuron.harness import LocalModel
from neuron.pipe import AnswerGrammar
from neuron.text.constraint import AnswerConstraint
from neuron.text.content import AnswerContent, ChoiceContent, GrammarContent, RegexContent
from neuron.text.grammar import UnenforceableSchemaError
from neuron.text.json_schema.check import CheckedSchema
from neuron.text.json_schema.objects import outline
from neuron.text.schema import ANY_OBJECT, Schema
from neuron.wire import ApiError


async def answer_constraint(body: ChatBody, checks: Checks) -> AnswerConstraint | None:
    """What the answer is held to; None when it is free.

    Raises `ApiError`, 400 for a schema that must be enforced and cannot be.
    """
    content = await _content(body, checks)
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
    """The constraint in the model's own notation. Of tools that are not strict, what that can express.

    Raises `ApiError`, 400 when it cannot express the rest and when compiling it takes too much.
    """
    param = constraining_param(body)
    try:
        try:
            lark = model.text.grammar(constraint, prompt)
        except UnenforceableSchemaError:
            lark = model.text.grammar(_outlined(body, model, constraint, checks), prompt)
    except UnenforceableSchemaError as error:
        raise ApiError(400, "invalid_schema", f"{param} cannot be enforced: {error}", param=param) from error
    return await _tried(lark, param, model, checks)


async def completion_grammar(body: GuidedBody, model: LocalModel, checks: Checks) -> AnswerGrammar | None:
    """The grammar of a bare completion; None when it is free. Raises `ApiError`, as `constraint_grammar`."""
    content = await _content(body, checks)
    if content is None or body.wanted is None:
        return None
    return await _tried(model.text.text_grammar(content), body.wanted.param, model, checks)


def constraining_param(body: ChatBody) -> str:
    """The parameter that an error about the answer's grammar names."""
    if wanted := body.wanted:
        return wanted.param
    return "tool_choice" if body.must_call or body.chosen_tools else "tools"


async def _tried(lark: str, param: str, model: LocalModel, checks: Checks) -> AnswerGrammar:
    grammar = AnswerGrammar(lark, list(model.text.eos_ids))
    if problem := await checks.grammar_problem(grammar, model.text.vocab_size):
        raise ApiError(400, "invalid_grammar", f"{param} cannot be enforced: {problem}", param=param)
    return grammar


async def _content(body: GuidedBody, checks: Checks) -> AnswerContent | None:
    """The form of the answer's text; None when it is free."""
    wanted = body.wanted
    if wanted is None:
        return None
    content: AnswerContent
    match wanted.kind:
        case "json_object":
            return ANY_OBJECT
        case "json":
            checked = await checks.schema(wanted.value, is_strict=wanted.is_strict)
            return _enforced(checked, wanted.param, checks)
        case "choice":
            content = ChoiceContent(wanted.value)
        case "regex":
            content = RegexContent(wanted.value)
        case "grammar":
            content = GrammarContent(wanted.value)
    found = await checks.content(content)
    if found.problem:
        raise _unenforceable(wanted.param, found.problem)
    return found.content


async def _call_schema(tool: FunctionTool, index: int, checks: Checks) -> Schema:
    """What a call's arguments are held to: any object, if a schema that is not strict cannot be enforced."""
    param = f"tools[{index}].function.parameters"
    schema = tool.function.parameters or ANY_OBJECT
    checked = await checks.schema(schema | ANY_OBJECT, is_strict=tool.function.strict is True)
    if checked.problem and not tool.function.strict:
        checks.unenforced.append(param)
        return ANY_OBJECT
    return _enforced(checked, param, checks)


def _enforced(checked: CheckedSchema, param: str, checks: Checks) -> Schema:
    if checked.problem:
        raise _unenforceable(param, checked.problem, checked.pointer)
    checks.unenforced += (f"{param}{pointer}" for pointer in checked.unenforced)
    return checked.schema


def _unenforceable(param: str, problem: str, pointer: str = "") -> ApiError:
    return ApiError(400, "invalid_schema", f"{param}{pointer}: {problem}", param=param)


def _outlined(
    body: ChatBody, model: LocalModel, constraint: AnswerConstraint, checks: Checks
) -> AnswerConstraint:
    """The constraint with outlines of the tools that are not strict and that the notation cannot express."""
    places = {tool.function.name: index for index, tool in enumerate(body.tools or ())}
    strict = {tool.function.name for tool in body.tools or () if tool.function.strict}
    calls: list[tuple[str, Schema]] = []
    for name, schema in constraint.calls:
        forms = [schema] if name in strict else [schema, outline(schema), ANY_OBJECT]
        calls.append((name, _expressible(forms, name, model)))
        if calls[-1][1] is not schema:
            checks.unenforced.append(f"tools[{places[name]}].function.parameters")
    return replace(constraint, calls=calls)


def _expressible(forms: Sequence[Schema], name: str, model: LocalModel) -> Schema:
    """The first form of a tool's arguments that the notation can express; raises for the last one."""
    for schema in forms[:-1]:
        with suppress(UnenforceableSchemaError):
            model.text.grammar(AnswerConstraint(calls=[(name, schema)], must_call=True), "")
            return schema
    model.text.grammar(AnswerConstraint(calls=[(name, forms[-1])], must_call=True), "")
    return forms[-1]
