"""Asking for lifecycle work. Each verb leaves one `Operation` row; a Celery task carries it out.

However many gateways ask for a model, the database admits one active load of it: the others get that one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from fleet.models import ACTIVE, Alias, ModelProfile, Node, Operation, Placement
from fleet.models.operation import target
from fleet.services import audit
from fleet.services.database import connected
from fleet.services.operations.task_queue import enqueue
from neuron.wire import ApiError


@dataclass(frozen=True, slots=True)
class OperationView:
    """An operation as a waiting request needs it."""

    id: int
    kind: str  # load | unload | evict | drain | restart | defrag
    model: str
    node: str  # empty until a node is chosen
    device: int | None  # of a restart
    state: str  # pending | running | succeeded | failed | cancelled
    progress: float | None  # 0 to 1 while a node loads
    message: str
    error_code: str
    eta_s: float | None = None  # of a running load, where the model was loaded before

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE

    @property
    def subject(self) -> str:
        """`load of m on beast`, `defrag of beast:0`."""
        return f"{self.kind} of {target(self.model, self.node, self.device)}"


@connected
def ensure_loaded(model_id: str, *, requested_by: str) -> OperationView:
    """The one load of this model: the active one, or a new one.

    After a failure the failed operation is returned for `FAILURE_BACKOFF_S`, so that requests cannot drive
    a fleet into loading what cannot be loaded. Raises `ApiError` 404 for a model that nobody knows.
    """
    model = _known(model_id)
    operation = _active_load(model) or _recent_failure(model)
    return view(operation or _start_load(model, requested_by=requested_by, reason="a request needs it"))


@connected
def load(
    model_id: str,
    node: str | None = None,
    *,
    requested_by: str = "",
    reason: str = "",
    replica: bool = False,
) -> OperationView:
    """Load on `node`, or where it fits best; the active load of that model when there is one.

    A `replica` is loaded although the model is there already, where memory is free.

    Raises `ApiError`: 404 for an unknown model or node, 409 when the active load goes to another node.
    """
    model = _known(model_id)
    if node is not None:
        _check_open(node)
    operation = _active_load(model) or _start_load(
        model, node=node or "", requested_by=requested_by, reason=reason, replica=replica
    )
    if node and node not in {operation.node, operation.wanted_node}:
        place = operation.node or "a node to be chosen"
        raise ApiError(409, "operation_active", f"{model} is being loaded on {place} already.", param="node")
    return view(operation)


@connected
def unload(
    model_id: str,
    node: str,
    *,
    requested_by: str = "",
    reason: str = "",
    unless_busy: bool = False,
    force: bool = False,
) -> OperationView:
    """Unload from `node` once requests under way have ended; at once by `force`, or not at all `unless_busy`.

    Raises `ApiError` 404 when the node is unknown or does not have the model.
    """
    model = resolve(model_id)
    _check_node(node)
    if not Placement.objects.filter(node__name=node, model=model).exclude(state="unloaded").exists():
        raise ApiError(404, "model_not_loaded", f"{model} is not loaded on {node}.", param="model")
    same = {"kind": Operation.Kind.UNLOAD, "model": model, "wanted_node": node}
    wish = Operation(**same, node=node, requested_by=requested_by, reason=reason)
    wish.unless_busy, wish.force = unless_busy, force
    return start(wish, same)


@connected
def operation(operation_id: int) -> OperationView:
    """Raises `ApiError` 404 for an id that does not exist (any more)."""
    row = _row(operation_id)
    return replace(view(row), eta_s=_eta_s(row))


@connected
def retry(operation_id: int, *, requested_by: str) -> OperationView:
    """A failed operation once more, as a new one."""
    failed = _row(operation_id)
    reason = f"retry of #{failed.pk}"
    if failed.kind == Operation.Kind.LOAD:
        return load(failed.model, failed.wanted_node or None, requested_by=requested_by, reason=reason)
    again = {"kind": failed.kind, "model": failed.model, "wanted_node": failed.wanted_node}
    again |= {"device": failed.device}
    wish = Operation(**again, node=failed.wanted_node, force=failed.force)
    wish.requested_by, wish.reason = requested_by, reason
    return start(wish, again)


@connected
def cancel(operation_id: int, *, requested_by: str) -> OperationView:
    """Cancel an operation that has not begun. Raises `ApiError` 409 for any other."""
    changed = Operation.objects.filter(pk=operation_id, state=Operation.State.PENDING).update(
        state=Operation.State.CANCELLED, message=f"cancelled by {requested_by}", finished_at=timezone.now()
    )
    row = _row(operation_id)
    if changed:
        audit.note(requested_by, "cancel", row.subject, operation=row.pk)
    if not changed:
        raise ApiError(409, "operation_not_pending", f"Operation {row.pk} is {row.state}.")
    return view(row)


def view(row: Operation) -> OperationView:
    return OperationView(
        id=row.pk,
        kind=str(row.kind),
        model=row.model,
        node=row.node,
        device=row.device,
        state=str(row.state),
        progress=row.progress,
        message=row.message,
        error_code=row.error_code,
    )


def _eta_s(row: Operation) -> float | None:
    """By how long the model's last load took, on the same node if it was loaded there."""
    if row.kind != Operation.Kind.LOAD or row.state != Operation.State.RUNNING or not row.started_at:
        return None
    loads = Operation.objects.filter(kind=row.kind, model=row.model, state=Operation.State.SUCCEEDED)
    done = loads.exclude(explanation=[]).order_by("-id")  # a node was chosen: it was not there already
    last: Operation | None = done.filter(node=row.node).first() or done.first()
    if last is None:
        return None
    due: timedelta = row.started_at + (last.finished_at - last.started_at) - timezone.now()
    return max(0.0, due.total_seconds())


def _row(operation_id: int) -> Operation:
    row: Operation | None = Operation.objects.filter(pk=operation_id).first()
    if row is None:
        raise ApiError(404, "operation_not_found", f"There is no operation {operation_id}.")
    return row


def resolve(model_id: str) -> str:
    target = Alias.objects.filter(name=model_id).values_list("target", flat=True).first()
    return target or model_id


def _known(model_id: str) -> str:
    model = resolve(model_id)
    if ModelProfile.objects.filter(model_id=model).exists():
        return model
    nodes = list(Node.objects.filter(placements__model=model))
    if not nodes:
        raise ApiError(404, "model_not_found", f"The model {model_id!r} does not exist.", param="model")
    if all(node.is_foreign for node in nodes):
        names = ", ".join(node.name for node in nodes)
        message = f"{model} is on {names} alone, where nothing can be loaded: it is there when that is."
        raise ApiError(503, "node_unavailable", message, param="model", retry_after_s=5)
    return model


def _check_node(node: str) -> None:
    row = Node.objects.filter(name=node).first()
    if row is None:
        raise ApiError(404, "node_not_found", f"There is no node {node!r}.", param="node")
    if row.is_foreign:
        message = f"{node} is no neuron but another server: its models are loaded and unloaded there."
        raise ApiError(409, "no_lifecycle", message, param="node")


def _check_open(node: str) -> None:
    _check_node(node)
    if Node.objects.filter(name=node, cordoned=True).exists():
        message = f"{node} is cordoned: uncordon it, and models can be loaded there again."
        raise ApiError(409, "node_cordoned", message, param="node")


def _active_load(model: str) -> Operation | None:
    return _active({"kind": Operation.Kind.LOAD, "model": model})


def _active(same: dict[str, Any]) -> Operation | None:
    row: Operation | None = Operation.objects.filter(**same, state__in=ACTIVE).first()
    return row


def _recent_failure(model: str) -> Operation | None:
    """The last load of the model, if it failed within the back-off."""
    since = timezone.now() - timedelta(seconds=settings.FAILURE_BACKOFF_S)
    loads = Operation.objects.filter(kind=Operation.Kind.LOAD, model=model, replica=False)
    last: Operation | None = loads.order_by("-id").first()
    if last is None or last.state != Operation.State.FAILED or last.finished_at < since:
        return None
    return last


def _start_load(
    model: str, *, node: str = "", requested_by: str, reason: str, replica: bool = False
) -> Operation:
    same = {"kind": Operation.Kind.LOAD, "model": model}
    wish = Operation(**same, wanted_node=node, requested_by=requested_by, reason=reason, replica=replica)
    return _single(wish, same)


def start(wish: Operation, same: dict[str, Any]) -> OperationView:
    """The wish as a new operation; or the active one that is the same."""
    return view(_active(same) or _single(wish, same))


def _single(wish: Operation, same: dict[str, Any]) -> Operation:
    """Save the wish and tell a worker; or return the active operation that took its place."""
    while True:
        try:
            with transaction.atomic():
                wish.save(force_insert=True)
                audit.note(wish.requested_by, wish.kind, wish.target, wish.reason, operation=wish.pk)
                transaction.on_commit(partial(enqueue, wish.pk))
        except IntegrityError:
            wish.pk = None
            if active := _active(same):
                return active
            continue  # it ended in this very moment
        return wish
