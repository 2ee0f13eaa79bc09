"""Waiting for a model that is not loaded: one load in the fleet, however many requests wait for it here."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field

from fleet.gateway.control.plane import ControlPlane, ControlPlaneError
from fleet.gateway.nodes.fleet_state import FleetState
from fleet.operations import OperationState, OperationView
from neuron.wire import ApiError

CHECK_INTERVAL_S = 0.5
EVENT_DELAY_S = 3.0  # a node reports a finished load within this
RETRY_S = 10.0  # `Retry-After` while nothing says how long a load takes


@dataclass(slots=True, eq=False)
class _Wait:
    """For one model, by all requests that want it."""

    model: str
    task: asyncio.Task[None] | None = None
    operation: OperationView | None = None
    succeeded_at: float | None = None  # monotonic
    waiters: int = 0
    node_seen_at: float = field(default_factory=time.monotonic)  # when a node last was healthy


@dataclass(slots=True)
class Loader:
    """Joins requests for a model into one wait. `close` ends all of them."""

    fleet: FleetState
    control: ControlPlane
    wait_s: float
    node_grace_s: float = 3.0  # a gateway that has just started has reached no node yet
    _waits: dict[str, _Wait] = field(default_factory=dict)  # by model

    async def wait(self, model: str) -> None:
        """Return when the (resolved) model is loaded somewhere.

        Raises `ApiError`: 503 with the reason when the load failed, 503 with `Retry-After` when it takes
        longer than `wait_s` or the control plane is away, 404 when nobody knows the model.
        """
        wait = self._waits.get(model)
        if wait is None:
            wait = self._waits[model] = _Wait(model)
        if wait.task is None:
            wait.task = asyncio.create_task(self._load(wait))
            wait.task.add_done_callback(lambda _: self._forget(wait))
        wait.waiters += 1
        try:
            await asyncio.shield(wait.task)
        finally:
            wait.waiters -= 1
            if not wait.waiters and not wait.task.done():
                self._forget(wait)
                wait.task.cancel()  # nobody waits any more; the load itself goes on

    @property
    def waiting(self) -> int:
        """The number of models that are waited for."""
        return len(self._waits)

    def _forget(self, wait: _Wait) -> None:
        if self._waits.get(wait.model) is wait:
            del self._waits[wait.model]

    def progress(self, model: str) -> str:
        """One line for a waiting client."""
        wait = self._waits.get(model)
        if wait is not None and wait.operation is not None:
            text = _operation_progress(model, wait.operation)
        else:
            loading = (
                _load_progress(model, node.name, view.progress)
                for node, view in self.fleet.snapshot.placements(model)
                if view.state == "loading"
            )
            text = next(loading, f"waiting for {model}")
        return " ".join(text.split())  # it may quote a node, and a line break would end the comment

    def share(self, model: str) -> float | None:
        """How much of the model is loaded, 0 to 1; None when nobody says."""
        wait = self._waits.get(model)
        if wait is not None and wait.operation is not None:
            return wait.operation.progress
        placements = self.fleet.snapshot.placements(model)
        return next((view.progress for _, view in placements if view.state == "loading"), None)

    def expected_wait_s(self, model: str) -> float | None:
        """Seconds until the model is loaded, by earlier loads; None when that is not known."""
        wait = self._waits.get(model)
        return wait.operation.eta_s if wait is not None and wait.operation is not None else None

    async def _load(self, wait: _Wait) -> None:
        model = wait.model
        deadline = time.monotonic() + self.wait_s
        while not self.fleet.snapshot.replicas(model):
            if time.monotonic() > deadline:
                retry_s = math.ceil(self.expected_wait_s(model) or RETRY_S)
                message = f"'{model}' is still being loaded; try again."
                raise ApiError(503, "model_loading", message, retry_after_s=retry_s)
            await self._step(wait)
            await self.fleet.changed(CHECK_INTERVAL_S)

    async def _step(self, wait: _Wait) -> None:
        """Make sure that a load is under way, and check how it goes."""
        if not self._some_node_answers(wait):
            return
        try:
            if wait.operation is not None:
                wait.operation = await self.control.operation(wait.operation.id)
            elif not self._loads_by_itself(wait.model):
                wait.operation = await self.control.ensure_loaded(wait.model)
        except ControlPlaneError as error:
            message = (
                f"'{wait.model}' is not loaded, and the control plane that would load it does not answer."
            )
            raise ApiError(503, "control_plane_unavailable", message, retry_after_s=5) from error
        if wait.operation is not None:
            self._judge(wait, wait.operation)

    def _some_node_answers(self, wait: _Wait) -> bool:
        now = time.monotonic()
        if self.fleet.snapshot.has_healthy_node:
            wait.node_seen_at = now
            return True
        if now - wait.node_seen_at > self.node_grace_s:
            raise ApiError(503, "no_healthy_node", "No node answers at the moment.", retry_after_s=5)
        return False

    def _judge(self, wait: _Wait, operation: OperationView) -> None:
        if operation.is_unsuccessful:
            reason = operation.message or "the load was cancelled"
            code = operation.error_code or "model_load_failed"
            raise ApiError(503, code, f"'{wait.model}' could not be loaded: {reason}")
        if operation.state != OperationState.SUCCEEDED:
            return
        now = time.monotonic()
        if wait.succeeded_at is None:
            wait.succeeded_at = now
        elif now - wait.succeeded_at > EVENT_DELAY_S:  # loaded, and gone again before we saw it: ask anew
            wait.operation = wait.succeeded_at = None

    def _loads_by_itself(self, model: str) -> bool:
        """Whether a node is loading it already, or reloading it after its worker died."""
        return any(
            node.healthy and view.state in {"loading", "loaded"}
            for node, view in self.fleet.snapshot.placements(model)
        )

    async def close(self) -> None:
        tasks = [wait.task for wait in self._waits.values() if wait.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _operation_progress(model: str, operation: OperationView) -> str:
    """How a load stands: queued for what, evicting what, or how far it is and how long it still takes."""
    if operation.state == OperationState.PENDING:
        return f"queued: {operation.message or f'{model} is to be loaded'}"
    text = _load_progress(model, operation.node, operation.progress)
    if operation.progress is None and operation.message:
        text = operation.message
    return text if operation.eta_s is None else f"{text}, about {math.ceil(operation.eta_s)} s left"


def _load_progress(model: str, node: str, progress: float | None) -> str:
    text = f"loading {model} on {node}" if node else f"loading {model}"
    return text if progress is None else f"{text} {100 * progress:.0f} %"
