"""Asking for lifecycle work: each verb leaves one `Operation` row, and a Celery task carries it out.

However many gateways ask for a model, the database admits one active load of it: they all get that one. Each
verb raises `ApiError`: 404 for what is not there, 409 for what cannot be now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone

from fleet.models import Device, ModelProfile, Node, Operation, Placement
from fleet.operations import OperationKind, OperationState, OperationView, rules_of
from fleet.services import audit, policy
from fleet.services.database import connected
from fleet.services.lookup import neuron, resolve
from fleet.services.operations import rows
from neuron.wire import ApiError


@connected
def ensure_loaded(model: str, *, requested_by: str, traceparent: str = "") -> OperationView:
    """The one load of this model: the active one, or a new one, which is a part of the asker's trace.

    For `FAILURE_BACKOFF_S` after a failure it is the failed one, so that requests cannot drive a fleet into
    loading what cannot be loaded.
    """
    name = _known(model)
    why = {"requested_by": requested_by, "reason": "a request needs it", "traceparent": traceparent}
    asked = rows.wish(OperationKind.LOAD, model=name, **why)
    return rows.view(rows.under_way(asked) or _recent_failure(name) or rows.begin(asked))


@connected
def load(
    model: str,
    node: str | None = None,
    *,
    requested_by: str = "",
    reason: str = "",
    replica: bool = False,
) -> OperationView:
    """Load on `node`, or where it fits best. A `replica` is loaded beside others, where memory is free.

    Raises `ApiError` 409 while the model is being loaded on another node.
    """
    name = _known(model)
    if node is not None:
        _check_open(node)
    asked = {"model": name, "wanted_node": node or "", "replica": replica}
    return _begin(OperationKind.LOAD, requested_by, reason, **asked)


@connected
def unload(
    model: str,
    node: str,
    *,
    requested_by: str = "",
    reason: str = "",
    unless_busy: bool = False,
    force: bool = False,
) -> OperationView:
    """Unload from `node` once requests under way have ended; at once by `force`.

    `unless_busy` gives the unload up where there are any.
    """
    name = resolve(model)
    neuron(node)
    if not Placement.objects.filter(node__name=node, model=name).exclude(state="unloaded").exists():
        raise ApiError(404, "model_not_loaded", f"{name} is not loaded on {node}.", param="model")
    asked = {"model": name, "wanted_node": node, "unless_busy": unless_busy, "force": force}
    return _begin(OperationKind.UNLOAD, requested_by, reason, **asked)


@connected
def drain(node: str, *, requested_by: str, reason: str = "", force: bool = False) -> OperationView:
    """Cordon the node and unload all of its models once their requests have ended; at once by `force`."""
    policy.cordon(node, requested_by=requested_by, reason=reason or "drain")
    return _begin(OperationKind.DRAIN, requested_by, reason, wanted_node=node, force=force)


@connected
def restart(
    node: str, device: int, *, requested_by: str, reason: str = "", force: bool = False
) -> OperationView:
    """Give the device a new worker, and load its models again."""
    _check_device(node, device)
    return _begin(OperationKind.RESTART, requested_by, reason, wanted_node=node, device=device, force=force)


@connected
def defrag(
    node: str, device: int, *, requested_by: str, reason: str = "", force: bool = False
) -> OperationView:
    """A restart for memory in one piece, counted as a defragmentation."""
    _check_device(node, device)
    return _begin(OperationKind.DEFRAG, requested_by, reason, wanted_node=node, device=device, force=force)


VERBS: Mapping[OperationKind, Callable[..., OperationView]] = {
    OperationKind.LOAD: load,
    OperationKind.UNLOAD: unload,
    OperationKind.DRAIN: drain,
    OperationKind.RESTART: restart,
    OperationKind.DEFRAG: defrag,
}


@connected
def retry(operation_id: int, *, requested_by: str) -> OperationView:
    """Ask once more for all that a failed operation was asked for; its row stays.

    Raises `ApiError` 409 if it has not failed, or is a part of another one.
    """
    failed = rows.find(operation_id)
    rows.check_retryable(failed)
    asked = {column: getattr(failed, column) for column in rules_of(failed.kind).asked}
    node = asked.pop("wanted_node") or None
    verb = VERBS[OperationKind(failed.kind)]
    return verb(node=node, requested_by=requested_by, reason=f"retry of #{failed.pk}", **asked)


@connected
def cancel(operation_id: int, *, requested_by: str) -> OperationView:
    """Cancel an operation that has not begun. Raises `ApiError` 409 for any other."""
    pending = Operation.objects.filter(pk=operation_id, state=OperationState.PENDING)
    cancelled = pending.update(
        state=OperationState.CANCELLED, message=f"cancelled by {requested_by}", finished_at=timezone.now()
    )
    row = rows.find(operation_id)
    if not cancelled:
        message = f"Operation {row.pk} is {row.state}: only one that has not begun can be cancelled."
        raise ApiError(409, "operation_not_pending", message)
    audit.note(requested_by, "cancel", row.subject, operation=row.pk)
    return rows.view(row)


@connected
def operation(operation_id: int) -> OperationView:
    """The operation as it is now. Raises `ApiError` 404 for an id that does not exist (any more)."""
    row = rows.find(operation_id)
    return rows.view(row, eta_s=rows.remaining_s(row))


def _begin(kind: OperationKind, requested_by: str, reason: str, **columns: Any) -> OperationView:
    return rows.view(rows.begin(rows.wish(kind, requested_by=requested_by, reason=reason, **columns)))


def _known(model: str) -> str:
    """The name of a model that is in the catalogue or on a neuron."""
    name = resolve(model)
    if ModelProfile.objects.filter(model_id=name).exists():
        return name
    nodes = list(Node.objects.filter(placements__model=name))
    if not nodes:
        raise ApiError(404, "model_not_found", f"The model {model!r} does not exist.", param="model")
    if all(node.is_foreign for node in nodes):
        servers = ", ".join(node.name for node in nodes)
        message = f"{name} is served by {servers} alone, where cortex loads nothing: try again later."
        raise ApiError(503, "node_unavailable", message, param="model", retry_after_s=5)
    return name


def _check_open(node: str) -> None:
    if neuron(node).cordoned:
        message = f"{node} is cordoned: uncordon it, and models can be loaded there again."
        raise ApiError(409, "node_cordoned", message, param="node")


def _check_device(node: str, device: int) -> None:
    row = neuron(node)
    if not Device.objects.filter(node=row, index=device).exists():
        raise ApiError(404, "device_not_found", f"{node} has no device {device}.", param="device")


def _recent_failure(model: str) -> Operation | None:
    """The last load of the model, if it failed within the back-off."""
    since = timezone.now() - timedelta(seconds=settings.FAILURE_BACKOFF_S)
    loads = Operation.objects.filter(kind=OperationKind.LOAD, model=model, replica=False)
    last: Operation | None = loads.order_by("-id").first()
    if last is None or last.state != OperationState.FAILED or last.finished_at < since:
        return None
    return last
