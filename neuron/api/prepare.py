"""From a chat request and a loaded model to a job for the engine."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import msgspec

from neuron.api.chat_request import ChatBody, Message, Part, unsupported
from neuron.harness import Served
from neuron.pipe import Sampling
from neuron.supervisor.device import Job
from neuron.text.answer import AnswerStream
from neuron.text.calls import NO_TOOLS
from neuron.text.model import GenerationDefaults
from neuron.text.template import TemplateRefusedError
from neuron.wire import ApiError

LONG_PROMPT_CHARS = 20_000  # beyond it tokenizing takes milliseconds, and leaves the event loop


@dataclass(frozen=True, slots=True)
class Prepared:
    job: Job
    answer: AnswerStream


async def prepare(body: ChatBody, model: Served) -> Prepared:
    """Render, tokenize and resolve every parameter. Raises `ApiError` naming what cannot be done."""
    tools = _tools(body, model)
    prompt = _render(body, model, tools)
    tokens = await encode(model, prompt)
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    offer = None if tools is None else NO_TOOLS
    answer = model.text.answer(prompt, stops=stops, min_tokens=body.min_tokens, offer=offer)
    return Prepared(_job(body, model, tokens), answer)


async def count(body: ChatBody, model: Served) -> int:
    """Prompt tokens of a request, exactly as a real call would have them."""
    return len(await encode(model, _render(body, model, _tools(body, model))))


async def encode(model: Served, prompt: str) -> list[int]:
    if len(prompt) < LONG_PROMPT_CHARS:
        return model.text.encode(prompt)
    return await asyncio.to_thread(model.text.encode, prompt)


def _render(body: ChatBody, model: Served, tools: list[dict[str, Any]] | None) -> str:
    template = model.text.template
    if template is None:
        raise unsupported("messages", f"The model {model.id!r} has no chat template.")
    messages = [_plain(message, f"messages[{i}]", model.id) for i, message in enumerate(body.messages)]
    variables = _reasoning_switch(body, model) | (body.chat_template_kwargs or {})
    try:
        return template.render(messages, tools=tools, documents=body.documents, variables=variables)
    except TemplateRefusedError as error:
        message = f"The chat template of {model.id!r} refuses this chat: {error}"
        raise ApiError(400, "template_render_failed", message, param="messages") from error


def _plain(message: Message, param: str, model_id: str) -> dict[str, Any]:
    """The message as templates expect it: content a string, absent fields absent."""
    if message.content is None and not (message.role == "assistant" and message.tool_calls):
        raise ApiError(
            400, "invalid_request_body", f"{param}.content: is required.", param=f"{param}.content"
        )
    plain: dict[str, Any] = {"role": message.role, "content": _text(message.content, param, model_id)}
    if message.tool_calls:
        plain["tool_calls"] = msgspec.to_builtins(message.tool_calls)
    for name in ("name", "tool_call_id", "reasoning_content"):
        if (value := getattr(message, name)) is not None:
            plain[name] = value
    return plain


def _text(content: str | list[Part] | None, param: str, model_id: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for index, part in enumerate(content):
        if part.type != "text" or part.text is None:
            place = f"{param}.content[{index}]"
            raise unsupported(place, f"{place}: the model {model_id!r} reads text only, not {part.type}.")
    return "\n".join(part.text or "" for part in content)


def _tools(body: ChatBody, model: Served) -> list[dict[str, Any]] | None:
    if not body.tools or body.tool_choice == "none":
        return None
    if model.text.tools is None:
        raise unsupported("tools", f"The model {model.id!r} cannot call tools.")
    return [msgspec.to_builtins(tool) for tool in body.tools]


def _reasoning_switch(body: ChatBody, model: Served) -> dict[str, Any]:
    """What the template understands of `reasoning_effort`."""
    if body.reasoning_effort is None:
        return {}
    assert model.text.template
    if model.text.template.mentions("reasoning_effort"):
        return {"reasoning_effort": body.reasoning_effort}
    if model.text.template.mentions("enable_thinking"):
        return {"enable_thinking": body.reasoning_effort not in {"none", "minimal"}}
    raise unsupported("reasoning_effort", f"The model {model.id!r} has no switch for its reasoning.")


def _job(body: ChatBody, model: Served, tokens: list[int]) -> Job:
    defaults = model.text.defaults
    room = model.context - len(tokens)  # none left: the engine refuses, with the numbers
    limit = body.max_completion_tokens or body.max_tokens or defaults.max_tokens or room
    stop_ids = list(body.stop_token_ids or ())
    if not body.ignore_eos:
        stop_ids += model.text.eos_ids
    return Job(
        model=model.id,
        tokens=tokens,
        max_tokens=max(1, min(limit, room)),
        sampling=_sampling(body, defaults),
        stop_ids=stop_ids,
        min_tokens=body.min_tokens,
        ignore_eos=body.ignore_eos,
    )


def _sampling(body: ChatBody, defaults: GenerationDefaults) -> Sampling:
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
        seed=body.seed,
    )
