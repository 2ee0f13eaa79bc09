"""What the engine is asked for each choice of a prompt: tokens, bounds and sampling."""

from __future__ import annotations

from neuron.api.bodies.generation import GenerationBody
from neuron.api.prompts.prompt import Prompt
from neuron.api.request import Caller
from neuron.harness import LocalModel
from neuron.pipe import AnswerGrammar, Sampling, Submit, next_id
from neuron.text.model_text import GenerationDefaults


def submits(
    body: GenerationBody,
    model: LocalModel,
    prompt: Prompt,
    caller: Caller,
    *,
    grammar: AnswerGrammar | None = None,
) -> list[Submit]:
    """One `Submit` for each choice that the body asks for. The first alone scores the prompt."""
    return [
        Submit(
            id=next_id(),
            model=model.id,
            tokens=prompt.tokens,
            max_tokens=_max_tokens(body, model, prompt),
            sampling=_sampling(body, model.text.defaults, choice),
            stop_ids=_stop_ids(body, model),
            min_tokens=body.min_tokens or 0,
            grammar=grammar,
            principal=caller.principal,
            priority=caller.priority,
            marks=list(prompt.marks),
            images=list(prompt.images),
            score_prompt=body.scores_prompts and choice == 0,
        )
        for choice in range(body.choices)
    ]


def _max_tokens(body: GenerationBody, model: LocalModel, prompt: Prompt) -> int:
    room = model.context - len(prompt.tokens)  # when none is left, the engine refuses with the numbers
    limit = model.text.defaults.max_tokens or room if body.limit is None else body.limit
    return min(limit, max(1, room))


def _stop_ids(body: GenerationBody, model: LocalModel) -> list[int]:
    ids = list(body.stop_token_ids or ())
    return ids if body.ignore_eos else [*ids, *model.text.eos_ids]


def _sampling(body: GenerationBody, defaults: GenerationDefaults, choice: int) -> Sampling:
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
        top_logprobs=body.num_alternatives,
    )


def _nth_seed(seed: int, choice: int) -> int:
    """`seed + choice`, wrapped to the signed 64 bits that the pipe carries."""
    return (seed + choice + 2**63) % 2**64 - 2**63
