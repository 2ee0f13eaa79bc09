"""A control plane in memory: a configuration a test may change, and loads that do what it says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fleet.gateway.control.plane import ControlPlaneError
from fleet.operations import OperationView
from fleet.snapshot import Configuration


@dataclass
class FakeOperation:
    id: int
    model: str
    state: str = "running"
    node: str = ""
    progress: float | None = None
    message: str = ""
    error_code: str = ""
    eta_s: float | None = None

    def view(self) -> OperationView:
        return OperationView(kind="load", **asdict(self))


@dataclass
class FakeControl:
    """`on_load` is awaited once per operation begun; it may end the operation or load the model."""

    current: Configuration = field(default_factory=Configuration)
    on_load: Callable[[FakeOperation], Awaitable[None]] | None = None
    operations: list[FakeOperation] = field(default_factory=list)
    down: bool = False
    closed: bool = False
    batches: Any = None  # tests of those use the real one

    def change(self, **fields) -> None:
        self.current = replace(self.current, version=self.current.version + 1, **fields)

    def _check(self) -> None:
        if self.down:
            raise ControlPlaneError("switched off by the test")

    async def configuration(self, known_version):
        self._check()
        return None if known_version == self.current.version else self.current

    async def ensure_loaded(self, model):
        self._check()
        active = [item for item in self.operations if item.model == model and item.state == "running"]
        if active:
            return active[0].view()
        operation = FakeOperation(len(self.operations) + 1, model)
        self.operations.append(operation)
        if self.on_load:
            await self.on_load(operation)
        return operation.view()

    async def operation(self, operation_id):
        self._check()
        return self.operations[operation_id - 1].view()

    def close(self) -> None:
        self.closed = True
