"""A neuron's models without its HTTP API: the harness, and a real worker process of one device."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.engine.models import random_weights
from neuron.config import NeuronConfig
from neuron.discovery import DiscoveredHost
from neuron.harness import HarnessContext
from neuron.models.tiny import WEIGHTS_DIR
from neuron.pipe import Sampling, Submit, next_id
from neuron.supervisor.torch_harness import TorchHarness
from neuron.templates import Templates
from neuron.wire import DeviceInfo, Leave, ModelSpec

TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True, slots=True)
class Node:
    """Models by the path of their directory."""

    harness: TorchHarness

    async def load(self, path: Path, tensor_parallel: int | None = None) -> None:
        """Load the model, or wake it."""
        spec = ModelSpec(model_id=path.name, source=str(path), tensor_parallel=tensor_parallel)
        await self.harness.load(spec)

    async def put_to_sleep(self, path: Path) -> None:
        await self.harness.unload(path.name, Leave(keep="host"))

    async def unload(self, path: Path) -> None:
        await self.harness.unload(path.name, Leave())

    async def first_token_s(self, path: Path, prompt: Sequence[int]) -> float:
        """The seconds until a loaded model has the first token after a prompt."""
        started = time.perf_counter()
        model = self.harness.local_model(path.name)
        submit = Submit(next_id(), path.name, list(prompt), 1, Sampling(), [])
        generation = model.submit(submit)
        await generation.read()
        return time.perf_counter() - started


@asynccontextmanager
async def node(device: torch.device, *, threads: int, devices: int = 1, **limits: int) -> AsyncIterator[Node]:
    """A node with one device or some from it on, as long as the context lasts; `limits` are of `[device]`."""
    first = device.index or 0
    infos = [
        DeviceInfo(index=index, name=f"{device.type}:{index}", kind=device.type, memory_total_mb=1 << 20)
        for index in range(first, first + devices)
    ]
    config = NeuronConfig.model_validate({"device": {"threads": threads, **limits}})
    templates = Templates(config.templates)
    await templates.warm_up()
    context = HarnessContext(config, "", infos, lambda _: None, templates, DiscoveredHost(infos))
    harness = TorchHarness(context)
    running = asyncio.create_task(harness.run())
    try:
        yield Node(harness)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await templates.close()


def model_directory(folder: Path, shape: dict[str, int], dtype: torch.dtype) -> Path:
    """A model of random weights with a tokenizer and a chat template."""
    random_weights(folder, shape, dtype)
    for name in TEXT_FILES:
        shutil.copy(WEIGHTS_DIR / name, folder)
    return folder


def weights_of(path: Path) -> Path:
    """The file with a model's weights."""
    (file,) = path.glob("*.safetensors")
    return file
