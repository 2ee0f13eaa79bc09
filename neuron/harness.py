"""The seam between a node and what runs its models.

The registry drives a `Harness` and knows it by its name alone. A harness may run models in workers of this
daemon, as `neuron.supervisor.torch_harness` does: the API generates with a `LocalModel`. Or it keeps an
inference server for each model, as `neuron.managed.harness` does: the API relays to a `RelayedModel`. A model
that is neither answers at its `endpoint`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from neuron.config import NeuronConfig
from neuron.generation import Generation
from neuron.pipe import ImagesProcessed, ImageToken, Submit, VideoFile
from neuron.templates import Templates
from neuron.text.model_text import ModelText
from neuron.wire import DeviceHealth, DeviceInfo, Leave, ModelInfo, ModelLoad, ModelSpec


class LocalModel(Protocol):
    """A loaded model that this process can generate with."""

    @property
    def id(self) -> str: ...

    @property
    def text(self) -> ModelText: ...

    @property
    def capabilities(self) -> set[str]:
        """Some of chat, embeddings, rerank, tools, reasoning and vision."""
        ...

    @property
    def context(self) -> int:
        """The most tokens that a prompt and its answer may have together."""
        ...

    @property
    def dimensions(self) -> int | None:
        """The length of its vectors; None unless it makes embeddings."""
        ...

    def submit(self, submit: Submit) -> Generation:
        """The generation that the submit begins; a worker that is gone ends it at once."""
        ...

    @property
    def image_token(self) -> ImageToken | None:
        """How its prompts show images; None when it reads text only."""
        ...

    @property
    def video_token(self) -> ImageToken | None:
        """How its prompts show videos; None when it reads their frames as images, or text only."""
        ...

    @property
    def max_images(self) -> int:
        """The most images and videos that one request may have."""
        ...

    async def process_images(self, files: list[bytes | VideoFile]) -> ImagesProcessed:
        """How the prompt is to show these images and videos. Raises `ApiError`."""
        ...

    async def embed(
        self, inputs: list[list[int]], *, num_prompt: int = 0, seconds: Sequence[int] = ()
    ) -> bytes:
        """The vectors or scores of all inputs, one after the other, in little-endian float32.

        The first `num_prompt` tokens of each are an instruction; `seconds` say where the second text of each
        pair begins. Raises `ApiError`.
        """
        ...


class RelayedAnswer(Protocol):
    """An answer of a model's server, whose head is here. It must be closed."""

    @property
    def status(self) -> int: ...

    @property
    def content_type(self) -> str: ...

    def chunks(self) -> AsyncGenerator[bytes]:
        """The body as it arrives. Raises `ApiError` when it breaks off."""
        ...

    async def close(self) -> None:
        """Let the server know that nobody reads any more. Idempotent."""
        ...


class RelayedModel(Protocol):
    """A loaded model that a server of this host answers for."""

    @property
    def id(self) -> str: ...

    @property
    def paths(self) -> Collection[str]:
        """The paths of inference that its server has."""
        ...

    async def ask(self, path: str, body: bytes, request_id: str) -> RelayedAnswer:
        """Pass a request on; cancelled, it ends at the server too. Raises `ApiError`."""
        ...


class HarnessHealth(NamedTuple):
    """The devices that a harness keeps workers on, and how busy its loaded models are."""

    devices: Sequence[DeviceHealth]
    models: Sequence[ModelLoad]


class Harness(Protocol):
    """Runs models. The registry makes one call at a time per verb and model, or per verb and device."""

    name: str  # what a `ModelSpec` asks for

    async def run(self) -> None:
        """Keep what models run on running until cancelled, then end everything that was started."""
        ...

    def health(self) -> HarnessHealth: ...

    def list(self) -> Sequence[ModelInfo]:
        """All models of this harness, those that are loading or failed included."""
        ...

    async def load(self, spec: ModelSpec) -> None:
        """Return when the model is loaded; at once when it was already. Raises `ApiError`."""
        ...

    async def unload(self, model_id: str, leave: Leave) -> None:
        """Return when the model's memory is free. Raises `ApiError`, 409 when it stays for its requests."""
        ...

    async def read_ahead(self, spec: ModelSpec) -> None:
        """Read the files of a model that will soon be loaded, as far as memory is free; return at once."""
        ...

    async def reset_cache(self, model_id: str) -> None:
        """Forget what the model's cache keeps of requests that ended. Raises `ApiError`."""
        ...

    async def restart_device(self, index: int, leave: Leave) -> None:
        """Replace the worker of a device in `health` and load its models again.

        Raises `ApiError`, 409 when a model stays for its requests.
        """
        ...

    def endpoint(self, model_id: str) -> str:
        """The URL under which the model answers OpenAI's API. Raises `ApiError` when it is not loaded."""
        ...

    def local_model(self, model_id: str) -> LocalModel | None:
        """The model for this process's own API; None when it is served elsewhere.

        Raises `ApiError` when it is not loaded.
        """
        ...

    def relayed_model(self, model_id: str) -> RelayedModel | None:
        """The model to relay requests to; None unless a server of this host answers for it.

        Raises `ApiError` when it is not loaded.
        """
        ...

    def log(self, model_id: str) -> Sequence[str]:
        """The last lines that the model's own server wrote; none where it has none."""
        ...


class HostMemory(Protocol):
    """The memory of this host's devices, MiB by index."""

    def free_mb(self) -> Mapping[int, int]: ...

    def held_mb(self, pids: Collection[int], devices: Collection[int]) -> Mapping[int, int]:
        """What processes that run on these devices hold of each; nothing of one that does not tell."""
        ...


@dataclass(frozen=True, slots=True)
class HarnessContext:
    """What the daemon gives to each harness that it makes."""

    config: NeuronConfig
    url: str  # of this node's API
    devices: Sequence[DeviceInfo]
    changed: Callable[[bool], None]  # called with True when a state changed, with False when load did
    templates: Templates
    memory: HostMemory
