"""What a device worker was asked and has not answered."""

from __future__ import annotations

import asyncio
from typing import Any

from neuron import pipe
from neuron.generation import Generation
from neuron.wire import ApiError

RETRY_AFTER_S = 5

Answer = pipe.Embedded | pipe.ImagesProcessed | pipe.Memory | pipe.Refused | pipe.Finished
Reply = Answer | pipe.Tokens | pipe.Scored | pipe.Loaded | pipe.LoadFailed | pipe.Unloaded


class WorkerLoadError(Exception):
    """A worker could not load a model: a code of `pipe.LoadFailed`, or worker_lost."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class PendingWork:
    """The generations, questions, loads and unloads of one worker.

    Each ends exactly once: by the worker's reply, or by `end_all` when the worker is gone. Questions are all
    requests with one answer: embeddings, images, memory.
    """

    def __init__(self) -> None:
        self._generations: dict[int, Generation] = {}
        self._questions: dict[int, tuple[str, asyncio.Future[Any]]] = {}  # with the model
        self._loads: dict[str, asyncio.Future[pipe.Loaded]] = {}
        self._unloads: dict[str, asyncio.Future[pipe.Unloaded]] = {}

    @property
    def is_loading(self) -> bool:
        return bool(self._loads)

    def is_busy(self, model: str) -> bool:
        """Whether a generation or a question of the model is under way."""
        if any(generation.model == model for generation in self._generations.values()):
            return True
        return any(asked == model for asked, _ in self._questions.values())

    def add_generation(self, generation: Generation) -> None:
        self._generations[generation.number] = generation

    def add_question(self, number: int, model: str) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._questions[number] = model, answer
        return answer

    def add_load(self, model: str) -> asyncio.Future[pipe.Loaded]:
        load: asyncio.Future[pipe.Loaded] = asyncio.get_running_loop().create_future()
        self._loads[model] = load
        return load

    def add_unload(self, model: str) -> asyncio.Future[pipe.Unloaded]:
        unload: asyncio.Future[pipe.Unloaded] = asyncio.get_running_loop().create_future()
        self._unloads[model] = unload
        return unload

    def unload(self, model: str) -> asyncio.Future[pipe.Unloaded] | None:
        """The unload of the model that is under way."""
        return self._unloads.get(model)

    def take(self, reply: Reply) -> None:
        """Hand a reply to whoever waits for it; one that nobody waits for is dropped."""
        match reply:
            case pipe.Tokens(id=number, tokens=tokens, logprobs=logprobs):
                if generation := self._generations.get(number):
                    generation.push(tokens, logprobs)
            case pipe.Scored(id=number, logprobs=logprobs):
                if generation := self._generations.get(number):
                    generation.prompt_logprobs += logprobs
            case pipe.Finished(id=number) | pipe.Refused(id=number):
                if generation := self._generations.pop(number, None):
                    generation.finish(reply)
                else:
                    self._answer(reply)
            case pipe.Embedded() | pipe.ImagesProcessed() | pipe.Memory():
                self._answer(reply)
            case pipe.Loaded(model=model) | pipe.LoadFailed(model=model):
                self._end_load(model, reply)
            case pipe.Unloaded(model=model):
                if unload := self._unloads.pop(model, None):
                    unload.set_result(reply)

    def _answer(self, reply: Answer) -> None:
        _, answer = self._questions.pop(reply.id, ("", None))
        if answer is None or answer.done():  # nobody waits any more
            return
        match reply:
            case pipe.Refused(status=status, code=code, message=message, retry_after_s=retry_after_s):
                answer.set_exception(ApiError(status, code, message, retry_after_s=retry_after_s))
            case pipe.Finished():
                answer.set_exception(ApiError(503, "cancelled", "The request was cancelled."))
            case _:
                answer.set_result(reply)

    def _end_load(self, model: str, reply: pipe.Loaded | pipe.LoadFailed) -> None:
        load = self._loads.pop(model, None)
        if load is None or load.done():
            return
        if isinstance(reply, pipe.Loaded):
            load.set_result(reply)
        else:
            load.set_exception(WorkerLoadError(reply.code, reply.message))

    def end_all(self, message: str) -> None:
        """End everything because the worker is gone: with an error, but unloads with success."""
        for number in [*self._generations, *self._questions]:
            self.take(pipe.Refused(number, 503, "worker_lost", message, RETRY_AFTER_S))
        for model in list(self._loads):
            self._end_load(model, pipe.LoadFailed(model, "worker_lost", message))
        for model in list(self._unloads):
            self.take(pipe.Unloaded(model))
