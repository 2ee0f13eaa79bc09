"""The prompts of a completion: texts and lists of tokens, as they stand."""

from __future__ import annotations

from neuron.api.bodies.completion import CompletionBody
from neuron.api.errors import invalid
from neuron.api.prompts.prompt import Prompt, encode
from neuron.harness import LocalModel


async def completion_prompt(body: CompletionBody, model: LocalModel, index: int) -> Prompt:
    """The body's `index`-th prompt; its text is there if it was given or is to be echoed.

    Raises `ApiError` 400 for an empty one.
    """
    given = body.prompts[index]
    if isinstance(given, str):
        prompt = Prompt(given, await encode(model, given, "prompt", is_rendered=False))
    else:
        prompt = Prompt(model.text.decode(given) if body.echo else "", given)
    if not prompt.tokens:
        raise invalid("prompt", "prompt: a prompt needs at least one token.")
    return prompt
