"""The adapters over the models of one device, by name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from neuron.device.memory import MIB, OutOfMemoryError
from neuron.device.startup import AcceleratorError
from neuron.engine.request import LoadedAdapter
from neuron.engine.scheduler import Scheduler
from neuron.models.adapters.bank import AdapterBank
from neuron.models.adapters.lora_file import read_adapter
from neuron.models.checkpoint import ModelLoadError
from neuron.models.tensor_parallel.adapters import split_adapter
from neuron.models.tensor_parallel.rank import RankDecoder
from neuron.pipe import Loaded, ModelStatus, Refused
from neuron.step import PoisonedError
from neuron.worker.resident_model import ResidentModel


@dataclass(frozen=True, slots=True)
class ResidentAdapter:
    """An adapter over a model in the device's memory."""

    base: ResidentModel
    bank: AdapterBank  # the base's
    scheduler: Scheduler  # the base's
    adapter: LoadedAdapter
    num_bytes: int  # by which it made the bank grow

    def loaded(self, name: str) -> Loaded:
        """Return what the daemon is told of it under its name."""
        size_mb, base, processor = -(-self.num_bytes // MIB), self.base, self.base.image_processor
        return Loaded(
            name,
            memory_mb=size_mb,
            needed_mb=size_mb,
            context=base.runner.shape.context,
            image_token=processor.token if processor else None,
            format=base.loaded.stored[0],
            bits_per_weight=base.loaded.stored[1],
            kv_dtype=base.kv_dtype,
            video_token=processor.video_token if processor else None,
        )

    def end_all(self, code: str, message: str, retry_after_s: int) -> list[Refused]:
        """Refuse every request with it."""
        return self.scheduler.end_all(code, message, retry_after_s, self.adapter.number)


class ResidentAdapters:
    """Loads and drops adapters. A failed load leaves them as they were."""

    def __init__(self) -> None:
        self._found: dict[str, ResidentAdapter] = {}

    def get(self, name: str) -> ResidentAdapter | None:
        return self._found.get(name)

    def load(
        self, name: str, base: ResidentModel | None, path: Path, free: int, number: int
    ) -> ResidentAdapter:
        """Return an adapter over a model, read from `path` into `free` bytes unless it is here already.

        Its `number` is one that no other over the model has, and the same on all ranks of a group.

        Raises ModelLoadError, and PoisonedError when the device is unusable from now on.
        """
        if found := self._found.get(name):
            return found
        if base is None:
            raise ModelLoadError("model_not_found", f"{path}: the model that it is for is not loaded")
        bank, scheduler = base.adapters, base.scheduler
        if bank is None or not isinstance(scheduler, Scheduler):
            cause = f"the layers of {scheduler.model} take no adapters; merge it into the model"
            raise ModelLoadError("model_unsupported", f"{path}: {cause}")
        adapter, before = read_adapter(path), bank.num_bytes
        if isinstance(module := base.loaded.module, RankDecoder):
            adapter = split_adapter(adapter, module.part)
        if adapter.num_bytes > free:
            cause = f"it takes {-(-adapter.num_bytes // MIB)} MiB, but {free // MIB} MiB are free"
            raise ModelLoadError("insufficient_memory", f"{path}: {cause}")
        try:
            bank.add(adapter, number)
        except (OutOfMemoryError, MemoryError) as error:
            raise ModelLoadError("insufficient_memory", f"{path}: {error or 'out of memory'}") from error
        except AcceleratorError as error:
            raise PoisonedError(f"the device failed: {error}") from error
        key = LoadedAdapter(number, os.urandom(16))
        self._found[name] = ResidentAdapter(base, bank, scheduler, key, max(0, bank.num_bytes - before))
        return self._found[name]

    def unload(self, name: str) -> None:
        """Drop an adapter that no request has any more."""
        found = self._found.pop(name)
        found.bank.remove(found.adapter.number)

    def unload_over(self, base: ResidentModel | None) -> None:
        """Drop the adapters over a model."""
        for name in [name for name, found in self._found.items() if found.base is base]:
            self.unload(name)

    def status(self) -> list[ModelStatus]:
        """Return those whose requests are scheduled here."""
        return [
            found.scheduler.adapter_status(name, found.adapter.number)
            for name, found in self._found.items()
            if found.base.wake is None
        ]
