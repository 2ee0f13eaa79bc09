"""`POST /v1/completions`: texts and tokens continued as they stand, without a chat template."""

from __future__ import annotations

from collections.abc import Sequence

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from ninja import Router

from cortex_site.http.response import StreamResponse, Write
from neuron import sse
from neuron.api.answers.choice import AnswerChoice, collect, prompt_choices, start_choices
from neuron.api.answers.chunks import ChunkEncoder, whole_answer
from neuron.api.answers.completion import CompletionChoiceWriter
from neuron.api.answers.logprobs import TextShape
from neuron.api.answers.stream import stream
from neuron.api.answers.usage import Usage, total_usage
from neuron.api.bodies.completion import CompletionBody, decode
from neuron.api.bodies.openapi import body_of
from neuron.api.prompts.checks import GRAMMAR_CODES, Checks
from neuron.api.prompts.completion import completion_prompt
from neuron.api.prompts.constraint import completion_grammar
from neuron.api.prompts.prompt import Prompt, require_generation
from neuron.api.prompts.submits import submits
from neuron.api.request import caller, find_model, log_fields, request_id, tell_unenforced
from neuron.config import StreamSettings
from neuron.daemon import Daemon
from neuron.harness import LocalModel
from neuron.pipe import AnswerGrammar

KIND = "text_completion"
BLAME = {"context_length_exceeded": "prompt", "tokens": "prompt"}


def router(daemon: Daemon) -> Router:
    completions = Router(tags=["inference"])

    @completions.post("/v1/completions", openapi_extra=body_of(CompletionBody))
    async def complete_text(request: HttpRequest) -> HttpResponseBase:
        """OpenAI's completion, streamed or not: every prompt, each with `n` choices."""
        body = decode(request.body)
        model = find_model(daemon.registry, request, body.model)
        require_generation(model)
        prompts = [await completion_prompt(body, model, index) for index in range(len(body.prompts))]
        checks = Checks(daemon.verdicts, caller(request).principal)
        grammar = await completion_grammar(body, model, checks)
        tell_unenforced(request, checks.unenforced)
        answer = _Answer(request, body, model, prompts, grammar)
        start_choices(answer.groups)
        if not body.stream:
            return await answer.whole()
        await answer.choices[0].wait_for_head(daemon.config.stream.head_wait_s)
        return answer.streamed(daemon.config.stream)

    return completions


class _Answer:
    """The choices of all prompts, in order, and how they are written."""

    def __init__(
        self,
        request: HttpRequest,
        body: CompletionBody,
        model: LocalModel,
        prompts: Sequence[Prompt],
        grammar: AnswerGrammar | None,
    ) -> None:
        self._id = f"cmpl-{request_id(request)}"
        self._body = body
        self._model = model
        self._prompts = prompts
        whom = caller(request)
        blame = BLAME | dict.fromkeys(GRAMMAR_CODES, body.wanted.param if body.wanted else "prompt")
        self.groups = [
            prompt_choices(
                submits(body, model, prompt, whom, grammar=grammar),
                lambda: model.text.text_answer(stops=body.stops, min_tokens=body.min_tokens or 0),
                model,
                log_fields(request),
                blame=blame,
            )
            for prompt in prompts
        ]
        self.choices = [choice for group in self.groups for choice in group]

    async def whole(self) -> HttpResponse:
        deltas = await collect(self.choices)
        choices = [
            writer.whole(delta.events, delta.drawn, choice.ending)
            for writer, delta, choice in zip(self._writers(None), deltas, self.choices, strict=True)
        ]
        content = whole_answer(self._id, self._model.id, KIND, choices=choices, used=self._usage())
        return HttpResponse(content, content_type="application/json")

    def streamed(self, settings: StreamSettings) -> StreamResponse:
        chunks = ChunkEncoder(self._id, self._model.id, KIND, include_usage=self._body.include_usage)
        writers = self._writers(chunks)

        def usage() -> bytes:
            return chunks.usage(self._usage()) if self._body.include_usage else b""

        async def produce(write: Write) -> None:
            await stream(self.choices, writers, write, keepalive_s=settings.keepalive_s, usage=usage)

        return StreamResponse(produce, headers=sse.HEADERS)

    def _writers(self, chunks: ChunkEncoder | None) -> list[CompletionChoiceWriter]:
        return [
            CompletionChoiceWriter(
                index,
                prompt.text if self._body.echo else "",
                scored=scored if self._body.scores_prompts else None,
                chunks=chunks,
                shape=None if self._body.logprobs is None else TextShape(self._model.text.token_bytes),
            )
            for index, (prompt, scored) in enumerate(self._of_each_choice())
        ]

    def _of_each_choice(self) -> list[tuple[Prompt, AnswerChoice]]:
        """The prompt of each choice, and the one of that prompt's choices that scores it."""
        groups = zip(self._prompts, self.groups, strict=True)
        return [(prompt, group[0]) for prompt, group in groups for _ in group]

    def _usage(self) -> Usage:
        return total_usage([[choice.usage for choice in group] for group in self.groups])
