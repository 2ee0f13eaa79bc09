"""The choice of the node for a load, and the claim on its devices."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from fleet import placement as placing
from fleet.models import Node, Operation, Placement
from fleet.operations import OperationKind, OperationState
from fleet.placement import Need, NodeVerdict, Outlook
from fleet.services import placement_facts, polling
from fleet.services.operations import rows
from fleet.services.operations.errors import OperationError, OutcomeError, PostponedError
from fleet.services.operations.lease import Lease
from fleet.services.operations.specs import read_ahead

RETRY_PLACEMENT_S = 1.0
NOBODY_YIELDS = -(1 << 31)  # below every residency priority: a replica takes free memory only
NO_ROOM = "insufficient_memory"
CODES = {
    Outlook.BUSY: "no_capacity",
    Outlook.STARTING: "devices_not_ready",
    Outlook.DOWN: "node_unreachable",
}


def choose(lease: Lease) -> None:
    """Choose a node and claim its devices.

    Raises `PostponedError` while time may help, `OperationError` with the reason of each node when it cannot.
    """
    operation = lease.operation
    polling.poll(names=_candidates(operation))
    lease.beat()
    if not operation.replica and loaded_placements(operation).filter(node__misses=0).exists():
        raise PostponedError("a node has it already", delay_s=0)
    need = need_of(operation)
    if need.base:
        _require_base(operation, need.base)
    decision = placing.place(
        need,
        placement_facts.nodes(
            only=operation.wanted_node,
            leave_out=_given_up(operation),
            patient=waited_s(operation) < settings.SWAP_WAIT_S,
        ),
        settings.EVICTION_STRATEGY,
    )
    is_first = not operation.explanation
    explanation = [_explained(verdict) for verdict in decision.verdicts]
    lease.note(explanation=operation.failed_nodes + explanation)
    if decision.chosen is None:
        if decision.outlook in placing.PASSING and is_first:
            read_ahead(operation.model, decision.verdicts[0])
        raise _why_not(operation, decision)
    if decision.chosen.victims and (older := _waits_longer(operation, decision.chosen.node)):
        message = f"its turn on {decision.chosen.node} comes after operation #{older.pk}"
        raise PostponedError(message, delay_s=RETRY_PLACEMENT_S)
    _settle(lease, decision.chosen)


def _require_base(operation: Operation, base: str) -> None:
    """Have the model loaded that the operation's adapter is for, if no node has it.

    Raises `PostponedError` while it loads, `OperationError` when it cannot be loaded.
    """
    if Placement.objects.filter(model=base, state__in=Placement.RESIDENT).exists():
        return
    failed = Operation.objects.filter(
        kind=OperationKind.LOAD,
        model=base,
        state=OperationState.FAILED,
        created_at__gte=operation.created_at,
    ).last()
    if failed is not None:
        message = f"{base}, which it is for, could not be loaded: {failed.message}"
        raise OperationError(failed.error_code, message)
    reason = f"{operation.model} is an adapter for it"
    rows.begin(rows.wish(OperationKind.LOAD, model=base, wanted_node=operation.wanted_node, reason=reason))
    raise PostponedError(f"waits for {base}, which it is for", delay_s=RETRY_PLACEMENT_S)


def _candidates(operation: Operation) -> list[str]:
    if operation.wanted_node:
        return [operation.wanted_node]
    return list(Node.objects.filter(healthy=True, kind=Node.Kind.NEURON).values_list("name", flat=True))


def _waits_longer(operation: Operation, node: str) -> Operation | None:
    """The first load asked for earlier that waits for models to leave that node: no swap overtakes it."""
    rows = Operation.objects.filter(kind=operation.kind, state=OperationState.PENDING, pk__lt=operation.pk)
    waiting = rows.filter(replica=False).order_by("pk")
    return next((row for row in waiting if _explained_as_busy(row, node)), None)


def _explained_as_busy(row: Operation, node: str) -> bool:
    return any(entry["node"] == node and entry["outlook"] == Outlook.BUSY for entry in row.explanation)


def need_of(operation: Operation) -> Need:
    """What the model needs, and more than any node had free on which it did not fit."""
    tried = [entry["free_mb"] for entry in operation.failed_nodes if entry["code"] == NO_ROOM]
    need = placement_facts.need(operation.model, floor_mb=max(tried, default=-1) + 1)
    if operation.replica:
        return replace(need, priority=NOBODY_YIELDS)
    return need


def _given_up(operation: Operation) -> set[str]:
    """The nodes that failed for another reason than want of memory."""
    return {entry["node"] for entry in operation.failed_nodes if entry["code"] != NO_ROOM}


def _explained(verdict: NodeVerdict) -> dict[str, str]:
    return {"node": verdict.node, "outlook": verdict.outlook, "message": verdict.reason}


def _settle(lease: Lease, verdict: NodeVerdict) -> None:
    """Claim devices and write the placement at once: a worker that takes over finds both, or neither."""
    node = Node.objects.get(name=verdict.node)
    victims = [victim.model for victim in verdict.victims]
    message = f"loading on {verdict.node}: {verdict.reason}"
    with transaction.atomic():
        if not lease.claim(
            verdict.node, verdict.touched, node=verdict.node, victims=victims, progress=None, message=message
        ):
            raise PostponedError("waits for another operation on the same device", delay_s=RETRY_PLACEMENT_S)
        row, _ = Placement.objects.get_or_create(node=node, model=lease.operation.model)
        row.devices = list(verdict.devices)
        row.save(update_fields=["devices"])
        if row.state in {Placement.State.UNLOADED, Placement.State.ASLEEP, Placement.State.FAILED}:
            row.move(Placement.State.LOADING)


def _why_not(operation: Operation, decision: placing.Decision) -> OutcomeError:
    """The error to raise: a postponement within the waiting bounds, else a failure.

    A failure repeats the words of the last node that tried, if one did.
    """
    waited = waited_s(operation)
    reason = "; ".join(f"{verdict.node}: {verdict.reason}" for verdict in decision.verdicts)
    match decision.outlook:
        case Outlook.BUSY | Outlook.STARTING if waited < settings.CAPACITY_WAIT_S:
            return PostponedError(reason, delay_s=RETRY_PLACEMENT_S)
        case Outlook.DOWN if waited < settings.NODE_WAIT_S and not operation.failed_nodes:
            return PostponedError(reason, delay_s=RETRY_PLACEMENT_S)
    if operation.failed_nodes:
        last = operation.failed_nodes[-1]
        return OperationError(last["code"], last["message"])
    if not decision.verdicts:
        return OperationError("no_node", "no node is configured")
    return OperationError(CODES.get(decision.outlook, "no_node_fits"), reason)


def loaded_placements(operation: Operation) -> QuerySet:
    """The placements in which the model is loaded, on healthy nodes that the operation may use."""
    rows = Placement.objects.filter(model=operation.model, state="loaded", node__healthy=True)
    if operation.wanted_node:
        rows = rows.filter(node__name=operation.wanted_node)
    return rows


def waited_s(operation: Operation) -> float:
    waited: timedelta = timezone.now() - operation.created_at
    return waited.total_seconds()
