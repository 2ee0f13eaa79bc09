"""Carries an unload out: one that was asked for, or an eviction on behalf of another operation."""

from __future__ import annotations

import logging
from contextlib import suppress
from time import monotonic
from typing import Any

from django.conf import settings
from django.utils import timezone

from cortex_site.config.models_toml import DEFAULT_PRIORITY
from fleet.models import IllegalTransitionError, ModelProfile, Node, Operation, Placement
from fleet.operations import OperationKind, OperationState
from fleet.services import metrics, polling
from fleet.services.neuron_client import NeuronClient, NodeError
from fleet.services.operations import rows
from fleet.services.operations.background import BackgroundCall
from fleet.services.operations.errors import NotNeededError, OperationError, PostponedError
from fleet.services.operations.lease import Lease
from neuron.wire import Leave, ModelInfo

log = logging.getLogger("cortex.operations")


def run(lease: Lease) -> str:
    """Unload the operation's model from its node and return what happened."""
    operation = lease.operation
    node = node_named(operation.wanted_node)
    placement: Placement | None = Placement.objects.filter(node=node, model=operation.model).first()
    if placement is None or placement.state == Placement.State.UNLOADED:
        return "was not loaded"
    if not lease.claim(node.name, set(placement.devices), node=node.name):
        raise PostponedError("waits for another operation on its device", delay_s=1)
    polling.poll_node(node)
    placement.refresh_from_db()
    if operation.unless_busy and placement.is_busy:
        raise NotNeededError("in use again")
    with NeuronClient(node) as client:
        try:
            remove(lease, client, placement, leave_of(operation))
        except BusyError as error:
            if operation.unless_busy:
                raise NotNeededError("in use again") from error
            raise
    polling.poll_node(node)
    return f"unloaded from {node.name}"


class BusyError(OperationError):
    """Requests under way did not end in time; the model stays loaded."""


def leave_of(operation: Operation) -> Leave:
    """How models leave: at once by `force`, not at all `unless_busy`, else after their requests.

    One that leaves because nobody uses it falls asleep.
    """
    if operation.force:
        return Leave()
    if operation.unless_busy:
        return Leave(grace_s=0, force=False, **_asleep(operation.model))
    return Leave(grace_s=settings.DRAIN_GRACE_S, force=False)


def leave_evicted(model: str) -> Leave:
    """How an evicted model leaves: it falls asleep after its requests."""
    return Leave(grace_s=settings.DRAIN_GRACE_S, force=False, **_asleep(model))


def _asleep(model: str) -> dict[str, Any]:
    """How it falls asleep: the same policy that evicts models drops those that are asleep."""
    if settings.EVICTION_STRATEGY == "lru":
        return {"keep": "host"}
    profile: ModelProfile | None = ModelProfile.objects.filter(model_id=model).first()
    return {"keep": "host", "priority": profile.priority if profile else DEFAULT_PRIORITY}


def node_named(name: str) -> Node:
    """Raises `OperationError` for a node that was removed since it was asked for."""
    node: Node | None = Node.objects.filter(name=name).first()
    if node is None:
        raise OperationError("node_not_found", f"there is no node {name!r} any more")
    return node


def remove(lease: Lease, client: NeuronClient, placement: Placement, leave: Leave) -> None:
    """Have the node unload the model, and wait until it is gone, or asleep if it may be. Idempotent.

    Raises `BusyError` if requests outlast the grace, `OperationError` in the node's own words or after
    `UNLOAD_TIMEOUT_S`.
    """
    try:
        placement.move(Placement.State.UNLOADING)
    except IllegalTransitionError:
        log.info("placement is being unloaded already", extra={"placement": str(placement)})
    call = BackgroundCall(lambda: client.unload(placement.model, leave))
    limit_s = settings.UNLOAD_TIMEOUT_S + leave.grace_s
    deadline = monotonic() + limit_s
    while monotonic() < deadline:
        answered = call.pause()
        lease.beat()
        info = _look(client, placement.model)
        is_asleep = info is not None and info.state == "asleep" and leave.keep == "host"
        if info is None or is_asleep:
            placement.forget(asleep=is_asleep)
            return
        if answered and call.error:
            raise _failure(placement, call.error) from call.error
    message = f"{placement} is still there after {limit_s:g} s"
    raise OperationError("unload_timeout", message)


def _look(client: NeuronClient, model: str) -> ModelInfo | None:
    try:
        return client.model(model)
    except NodeError as error:
        raise OperationError(error.code, error.message) from error


def _failure(placement: Placement, error: BaseException) -> OperationError:
    if not isinstance(error, NodeError):
        raise error
    if error.code != "model_busy":
        return OperationError(error.code, error.message)
    with suppress(IllegalTransitionError):
        placement.move(Placement.State.LOADED)
    return BusyError(error.code, error.message)


def evict(lease: Lease, client: NeuronClient, placement: Placement, leave: Leave, why: str) -> None:
    """Unload a placement on behalf of the lease's operation, with a row of its own.

    A worker that takes over goes on with the row of the one before it.
    """
    parent = lease.operation
    asked = rows.wish(
        OperationKind.EVICT,
        model=placement.model,
        wanted_node=placement.node.name,
        parent=parent,
        requested_by=parent.requested_by,
        reason=f"{why} (#{parent.pk})",
        state=OperationState.RUNNING,
        started_at=timezone.now(),
    )
    row = rows.begin(asked)
    try:
        remove(lease, client, placement, leave)
    except BusyError as error:
        _end(lease, row, OperationState.CANCELLED, error.message)
        raise
    except OperationError as error:
        _end(lease, row, OperationState.FAILED, error.message, error.code)
        raise
    _end(lease, row, OperationState.SUCCEEDED, f"freed {placement.memory_mb} MiB")
    metrics.EVICTIONS.labels(placement.model, placement.node.name).inc()


def _end(lease: Lease, row: Operation, state: OperationState, message: str, error_code: str = "") -> None:
    lease.note()  # a worker whose lease is lost leaves the row to its successor
    Operation.objects.filter(pk=row.pk).update(
        state=state, message=message, error_code=error_code[:100], finished_at=timezone.now()
    )
