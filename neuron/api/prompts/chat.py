"""From a chat request and a loaded model to jobs for the engine."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import msgspec

from neuron.api.answers.choice import Prepared
from neuron.api.bodies.chat import ChatBody, ChatMessage, ContentPart, NamedTool
from neuron.api.bodies.decode import invalid, unsupported
from neuron.api.bodies.generation import GenerationBody
from neuron.api.prompts.images import located, pictures, place
from neuron.harness import LocalModel
from neuron.pipe import Guide, Sampling, Shown
from neuron.supervisor.job import Job
from neuron.text.grammar import ANY_OBJECT, AnswerConstraint, UnenforceableSchemaError, schema_problem
from neuron.text.model_text import GenerationDefaults
from neuron.text.notations.parser import Offer, Schema
from neuron.text.template import TemplateRefusedError
from neuron.wire import ApiError, prefix_marks

LONG_PROMPT_CHARS = 20_000  # beyond it tokenizing takes milliseconds, and leaves the event loop
SCHEMA_TIMEOUT_S = 5.0  # the library's own limits end it earlier

Json = dict[str, Any]


async def prepare(body: ChatBody, model: LocalModel, raw: bytes = b"") -> list[Prepared]:
    """Render, tokenize and resolve every parameter: the request's choices. Raises `ApiError` naming what
    cannot be done. `raw` is the body as it came."""
    require_capability(model, "chat")
    tools = _tools(body, model)
    wish = await _wish(body)
    prompt, tokens, images = await _prompt(body, model, tools)
    guide = None if wish is None else _guide(body, model, wish, prompt)
    offer = None if tools is None else Offer({tool.function.name: _schema(tool) for tool in body.tools or ()})
    params = {"context_length_exceeded": "messages", "invalid_grammar": _guided_by(body)}
    marks = _marks(raw, len(tokens))
    return [
        Prepared(
            replace(
                job(body, model, tokens, choice=index, top_logprobs=_top_logprobs(body), guide=guide),
                marks=marks,
                images=images,
            ),
            model.text.answer(
                prompt,
                stops=body.stops,
                min_tokens=body.min_tokens,
                offer=offer,
                max_calls=1 if body.parallel_tool_calls is False else None,
            ),
            params,
        )
        for index in range(body.choices)
    ]


def _marks(raw: bytes, num_tokens: int) -> list[tuple[int, int]]:
    """The body's prefix marks, in tokens instead of bytes: about, for text becomes tokens evenly enough."""
    return [(digest, length * num_tokens // len(raw)) for digest, length in prefix_marks(raw)]


async def count(body: ChatBody, model: LocalModel) -> int:
    """Prompt tokens of a request, exactly as a real call would have them."""
    require_capability(model, "chat")
    _, tokens, _ = await _prompt(body, model, _tools(body, model))
    return len(tokens)


def require_capability(model: LocalModel, name: str) -> None:
    if name not in model.capabilities:
        can = " and ".join(sorted(model.capabilities & {"chat", "embeddings"})) or "completions"
        raise ApiError(
            400, "wrong_modality", f"The model {model.id!r} does {can}, not {name}.", param="model"
        )


async def encode(model: LocalModel, prompt: str, *, is_rendered: bool = True) -> list[int]:
    if len(prompt) < LONG_PROMPT_CHARS:
        return model.text.encode(prompt, is_rendered=is_rendered)
    return await asyncio.to_thread(model.text.encode, prompt, is_rendered=is_rendered)


# --- the prompt ---------------------------------------------------------------------------------------------


async def _prompt(
    body: ChatBody, model: LocalModel, tools: list[Json] | None
) -> tuple[str, list[int], list[Shown]]:
    """As text, as tokens, and where among those it shows images."""
    shown = pictures(body.messages, model)
    prompt = _render(body, model, tools)
    if not shown or model.sight is None:
        return prompt, await encode(model, prompt), []
    prompt, seen = await place(prompt, shown, model)
    tokens = await encode(model, prompt)
    return prompt, tokens, located(tokens, seen, model.sight)


def _render(body: ChatBody, model: LocalModel, tools: list[Json] | None) -> str:
    template = model.text.template
    assert template  # it makes the capability
    messages = [_plain(message, f"messages[{i}]", model.id) for i, message in enumerate(body.messages)]
    variables = _switches(body, model) | (body.chat_template_kwargs or {})
    try:
        return template.render(
            messages,
            tools=tools,
            documents=body.documents,
            variables=variables,
            add_generation_prompt=body.add_generation_prompt is not False,
            continue_final=bool(body.continue_final_message),
        )
    except TemplateRefusedError as error:
        message = f"The chat template of {model.id!r} refuses this chat: {error}"
        raise ApiError(400, "template_render_failed", message, param="messages") from error


def _plain(message: ChatMessage, param: str, model_id: str) -> Json:
    """The message as templates expect it: content a string, absent fields absent."""
    if message.content is None and not (message.role == "assistant" and message.tool_calls):
        raise invalid(f"{param}.content", f"{param}.content: is required.")
    plain: Json = {"role": message.role, "content": _content(message.content, param, model_id)}
    if message.tool_calls:
        plain["tool_calls"] = msgspec.to_builtins(message.tool_calls)
    for name in ("name", "tool_call_id", "reasoning_content"):
        if (value := getattr(message, name)) is not None:
            plain[name] = value
    return plain


def _content(content: str | list[ContentPart] | None, param: str, model_id: str) -> str | list[Json]:
    """Text, or a list of parts where there are images among them."""
    if content is None or isinstance(content, str):
        return content or ""
    for index, part in enumerate(content):
        if part.type != "image_url" and (part.type != "text" or part.text is None):
            place = f"{param}.content[{index}]"
            raise unsupported(place, f"{place}: the model {model_id!r} does not read {part.type}.")
    if all(part.type == "text" for part in content):
        return "\n".join(part.text or "" for part in content)
    return [
        {"type": "text", "text": part.text} if part.type == "text" else {"type": "image"} for part in content
    ]


def _tools(body: ChatBody, model: LocalModel) -> list[Json] | None:
    if not body.tools or body.tool_choice == "none":
        return None
    if model.text.tools is None:
        raise unsupported("tools", f"The model {model.id!r} cannot call tools.")
    return [msgspec.to_builtins(tool) for tool in body.tools]


def _switches(body: ChatBody, model: LocalModel) -> Json:
    """What the template understands of `reasoning_effort` and `verbosity`."""
    assert model.text.template
    mentions = model.text.template.mentions
    found: Json = {}
    if body.verbosity is not None and mentions("verbosity"):
        found["verbosity"] = body.verbosity
    if body.reasoning_effort is None:
        return found
    if mentions("reasoning_effort"):
        return found | {"reasoning_effort": body.reasoning_effort}
    if mentions("enable_thinking"):
        return found | {"enable_thinking": body.reasoning_effort not in {"none", "minimal"}}
    raise unsupported("reasoning_effort", f"The model {model.id!r} has no switch for its reasoning.")


# --- what the answer must look like -------------------------------------------------------------------------


async def _wish(body: ChatBody) -> AnswerConstraint | None:
    """What is to be enforced; None when the answer is free. Schemas are checked, off the event loop."""
    content = await _content_schema(body)
    tools = (body.tools or []) if body.tool_choice != "none" else []
    is_strict = any(tool.function.strict for tool in tools)
    if content is None and not body.must_call and not is_strict:
        return None
    named = body.tool_choice.function.name if isinstance(body.tool_choice, NamedTool) else None
    calls = [
        (tool.function.name, await _call_schema(body, index))
        for index, tool in enumerate(tools)
        if named in {None, tool.function.name}
    ]
    return AnswerConstraint(
        content=content,
        calls=calls,
        must_call=body.must_call,
        is_parallel=body.parallel_tool_calls is not False and named is None,
    )


async def _content_schema(body: ChatBody) -> Schema | None:
    wanted = body.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.json_schema is None:
        return ANY_OBJECT
    schema = wanted.json_schema.schema
    if schema is None:
        return {}
    await _require_guidable(schema, "response_format.json_schema.schema")
    return schema


async def _call_schema(body: ChatBody, index: int) -> Schema:
    """A strict tool's parameters must be enforced, another's are as far as they can be."""
    function = (body.tools or [])[index].function
    schema = function.parameters or ANY_OBJECT
    if function.strict:
        await _require_guidable(schema, f"tools[{index}].function.parameters")
        return schema
    return ANY_OBJECT if await _problem(schema) else schema


async def _require_guidable(schema: Schema, param: str) -> None:
    if problem := await _problem(schema):
        raise ApiError(400, "invalid_schema", f"{param} cannot be enforced: {problem}", param=param)


async def _problem(schema: Schema) -> str | None:
    try:
        return await asyncio.wait_for(asyncio.to_thread(schema_problem, schema), SCHEMA_TIMEOUT_S)
    except TimeoutError:
        return f"it takes longer than {SCHEMA_TIMEOUT_S:g} s to compile"


def _guide(body: ChatBody, model: LocalModel, wish: AnswerConstraint, prompt: str) -> Guide:
    try:
        return Guide(model.text.grammar(wish, prompt), list(model.text.eos_ids))
    except UnenforceableSchemaError as error:
        param = _guided_by(body)
        raise ApiError(400, "invalid_schema", f"{param} cannot be enforced: {error}", param=param) from error


def _guided_by(body: ChatBody) -> str:
    is_json = body.response_format is not None and body.response_format.type != "text"
    return "response_format" if is_json else "tool_choice" if body.must_call else "tools"


def _schema(tool: Any) -> Schema:
    parameters: Schema = tool.function.parameters or {}
    return parameters


# --- the job ------------------------------------------------------------------------------------------------


def _top_logprobs(body: ChatBody) -> int | None:
    return (body.top_logprobs or 0) if body.logprobs else None


def job(
    body: GenerationBody,
    model: LocalModel,
    tokens: list[int],
    *,
    choice: int = 0,
    top_logprobs: int | None = None,
    guide: Guide | None = None,
) -> Job:
    """The request's `choice`-th answer to a prompt; with a seed, the others have the numbers after it."""
    defaults = model.text.defaults
    room = model.context - len(tokens)  # none left: the engine refuses, with the numbers
    limit = body.limit or defaults.max_tokens or room
    stop_ids = list(body.stop_token_ids or ())
    if not body.ignore_eos:
        stop_ids += model.text.eos_ids
    return Job(
        model=model.id,
        tokens=tokens,
        max_tokens=max(1, min(limit, room)),
        sampling=_sampling(body, defaults, choice, top_logprobs),
        stop_ids=stop_ids,
        min_tokens=body.min_tokens,
        ignore_eos=body.ignore_eos,
        guide=guide,
    )


def _sampling(
    body: GenerationBody, defaults: GenerationDefaults, choice: int, top_logprobs: int | None
) -> Sampling:
    def given(value: float | None, default: float) -> float:
        return default if value is None else value

    return Sampling(
        temperature=given(body.temperature, defaults.temperature),
        top_p=given(body.top_p, defaults.top_p),
        top_k=max(0, int(given(body.top_k, defaults.top_k))),
        min_p=given(body.min_p, defaults.min_p),
        repetition_penalty=given(body.repetition_penalty, defaults.repetition_penalty),
        presence_penalty=given(body.presence_penalty, 0.0),
        frequency_penalty=given(body.frequency_penalty, 0.0),
        logit_bias=tuple((body.logit_bias or {}).items()),
        seed=None if body.seed is None else _nth_seed(body.seed, choice),
        top_logprobs=top_logprobs,
    )


def _nth_seed(seed: int, choice: int) -> int:
    """`seed + choice`, kept within 64 bits with sign, as the pipe has them."""
    return (seed + choice + 2**63) % 2**64 - 2**63
