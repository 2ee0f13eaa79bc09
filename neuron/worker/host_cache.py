"""Models that are asleep: out of the device, their weights in the host's memory.

A model that is evicted falls asleep, and one that sleeps is dropped when others need its room: the one of the
lowest priority first, among equals the one that sleeps longest.

On a CPU weights stay where they are, in a mapped file or in memory of their own, and make room for models
that are awake: `shrink`. From a GPU they are copied to pinned memory, their storages stay without memory, and
waking fills these again: whatever holds the tensors holds them afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

from neuron.device.host_copies import HostCopies
from neuron.worker.loaded_model import LoadedModel


@dataclass(slots=True)
class _Sleeping:
    loaded: LoadedModel
    priority: int
    copies: HostCopies | None  # of what was on a GPU

    @property
    def num_bytes(self) -> int:
        return self.loaded.num_bytes


class HostCache:
    """Keeps models of a device within `budget` bytes."""

    def __init__(self, budget: int, device_type: str = "cpu") -> None:
        self.budget = budget
        self._is_host = device_type == "cpu"
        self._sleeping: dict[str, _Sleeping] = {}  # the one that fell asleep first comes first
        self._dropped: list[str] = []

    @property
    def used(self) -> int:
        return sum(sleeping.num_bytes for sleeping in self._sleeping.values())

    def __contains__(self, model: str) -> bool:
        return model in self._sleeping

    def peek(self, model: str) -> LoadedModel | None:
        """Return a model that is asleep, and let it sleep."""
        sleeping = self._sleeping.get(model)
        return sleeping.loaded if sleeping else None

    def put(self, model: str, loaded: LoadedModel, priority: int) -> bool:
        """Let a model fall asleep, and return whether it does. Others that count no more may go for it."""
        others = sorted(self._sleeping.items(), key=lambda item: item[1].priority)  # stable
        yielding = sum(sleeping.num_bytes for _, sleeping in others if sleeping.priority <= priority)
        if self.used - yielding + loaded.num_bytes > self.budget:
            return False
        self.shrink(self.budget - loaded.num_bytes)
        copies = None if self._is_host else HostCopies((loaded.module, loaded.draft and loaded.draft.module))
        self._sleeping[model] = _Sleeping(loaded, priority, copies)
        return True

    def take(self, model: str) -> LoadedModel | None:
        """Wake a model and return it, its weights where they were; None if it is not asleep."""
        sleeping = self._sleeping.pop(model, None)
        if sleeping is None:
            return None
        if sleeping.copies:
            sleeping.copies.move_back()
        return sleeping.loaded

    def drop(self, model: str) -> bool:
        """Forget a model, and return whether it was asleep."""
        return self._sleeping.pop(model, None) is not None

    def shrink(self, budget: int) -> None:
        """Drop models until those that are left take at most `budget` bytes."""
        order = sorted(self._sleeping, key=lambda model: self._sleeping[model].priority)
        for model in order:
            if self.used <= budget:
                return
            del self._sleeping[model]
            self._dropped.append(model)

    def take_dropped(self) -> list[str]:
        """Return the models that were dropped for others since the last call."""
        dropped, self._dropped = self._dropped, []
        return dropped
