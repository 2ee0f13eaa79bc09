"""The seam between the node's API and whatever runs models: `Harness`, and the harnesses known by name.

`torch` is the one that ships: it runs models in device workers of this daemon. Another one could drive an
inference server of its own; then `served` is None and `endpoint` is that server's URL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from neuron.config import NeuronConfig
from neuron.generation import Generation
from neuron.pipe import Looked, Sight
from neuron.supervisor.job import Job
from neuron.supervisor.torch_harness import TorchHarness
from neuron.text.model_text import ModelText
from neuron.wire import ApiError, DeviceHealth, DeviceInfo, Leave, ModelInfo, ModelLoad, ModelSpec


class LocalModel(Protocol):
    """A loaded model that this process can generate with."""

    @property
    def id(self) -> str: ...

    @property
    def text(self) -> ModelText: ...

    @property
    def capabilities(self) -> set[str]:
        """What it is good for: chat, embeddings, tools, reasoning, vision."""
        ...

    @property
    def context(self) -> int:
        """Tokens that prompt and answer may have together."""
        ...

    @property
    def dimensions(self) -> int | None:
        """Of its vectors, when it makes embeddings."""
        ...

    def submit(self, job: Job) -> Generation: ...

    @property
    def sight(self) -> Sight | None:
        """How it is shown images, when it reads any."""
        ...

    @property
    def max_images(self) -> int:
        """Of one request."""
        ...

    async def look(self, images: list[bytes]) -> Looked:
        """How the prompt is to show these files. Raises `ApiError`."""
        ...

    async def embed(self, inputs: list[list[int]]) -> bytes:
        """The vectors of all inputs, one after the other, in little-endian float32. Raises `ApiError`."""
        ...


class Harness(Protocol):
    name: str

    async def run(self) -> None:
        """Do what it takes to be usable, until cancelled; then end everything that was started."""
        ...

    def health(self) -> tuple[list[DeviceHealth], list[ModelLoad]]: ...

    def list(self) -> list[ModelInfo]:
        """All models it knows of, also those loading and failed."""
        ...

    async def load(self, spec: ModelSpec) -> None:
        """Returns when the model is loaded; at once when it is already. Raises `ApiError`."""
        ...

    async def unload(self, model_id: str, leave: Leave) -> None:
        """Returns when the model's memory is free. Raises `ApiError`, 409 when it stays for its requests."""
        ...

    async def reset_cache(self, model_id: str) -> None:
        """Forget what the model's cache keeps of requests that ended. Raises `ApiError`."""
        ...

    async def drain_device(self, index: int, leave: Leave) -> None:
        """Unload all models of a device. Raises `ApiError`, 409 as `unload` does."""
        ...

    async def restart_device(self, index: int, leave: Leave) -> None:
        """Give a device a new worker, and it its models again. Raises `ApiError`, 409 as `unload` does."""
        ...

    def endpoint(self, model_id: str) -> str:
        """The URL under which the model answers OpenAI's API. Raises `ApiError` when it is not loaded."""
        ...

    def local_model(self, model_id: str) -> LocalModel | None:
        """The model for this process's own API. Raises `ApiError` when it is not loaded."""
        ...


@dataclass(frozen=True, slots=True)
class HarnessContext:
    """What a harness is made from. `changed(urgent=…)` is called when `/events` has something new to show."""

    config: NeuronConfig
    url: str
    devices: Sequence[DeviceInfo]
    worker_command: Sequence[str]
    changed: Callable[[bool], None]


def _torch(context: HarnessContext) -> Harness:
    return TorchHarness(
        context.devices,
        config=context.config,
        url=context.url,
        worker_command=context.worker_command,
        changed=context.changed,
    )


HARNESSES: dict[str, Callable[[HarnessContext], Harness]] = {"torch": _torch}


def unknown_harness(name: str) -> ApiError:
    known = ", ".join(sorted(HARNESSES))
    return ApiError(
        400, "unknown_harness", f"There is no harness {name!r}; this neuron has: {known}.", param="harness"
    )
