"""Carrying out a load: choose a node, make room there, load, and say how it went.

Each step leaves the row so that whoever takes the operation over goes on from it: with a node chosen the
choice stands, and asking that node again for what it does already is harmless. No transaction is open while
a node is asked anything.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from time import monotonic, sleep

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet, Sum
from django.utils import timezone

from cortex_site.config import current
from fleet import placement as placing
from fleet.models import Device, ModelProfile, Node, Operation, Placement
from fleet.operations import State
from fleet.placement import Need, NodeVerdict, Outlook
from fleet.services import metrics, placement_facts, polling, reports
from fleet.services.neuron_client import NeuronClient, NodeError
from fleet.services.operations.background import BackgroundCall
from fleet.services.operations.errors import OperationError, OutcomeError, PostponedError
from fleet.services.operations.lease import Lease
from fleet.services.operations.unloading import BusyError, evict, node_named
from neuron.wire import Leave, ModelInfo, ModelSpec

MAX_TRIES = 6
MAX_ASKED = 3
RETRY_PLACEMENT_S = 1.0
NOBODY_YIELDS = -(1 << 31)  # below every residency class: a replica takes free memory only
MODEL_FAULTS = frozenset({"model_unsupported"})  # no other node would do better
NO_ROOM = "insufficient_memory"


def run(lease: Lease) -> str:
    """Load the operation's model; the return value says what happened."""
    if not lease.operation.node and (node := _loaded_already(lease.operation)):
        lease.note(node=node)
        return f"was loaded on {node} already"
    if not lease.operation.node and (node := _arriving(lease.operation)):
        raise PostponedError(f"{node} is loading it already", delay_s=RETRY_PLACEMENT_S)
    while True:
        if not lease.operation.node:
            choose(lease)
        node = node_named(lease.operation.node)
        try:
            _load_on(lease, node)
        except OperationError as error:
            _give_up_on(lease, node, error)
        else:
            return f"loaded on {node.name}"


def _loaded_already(operation: Operation) -> str:
    """The node that has it in spite of what the asker knew; asked itself, since rows may be old."""
    if operation.replica:
        return ""
    for row in _has_it(operation).select_related("node"):
        polling.poll_node(row.node)
        row.refresh_from_db()
        if row.state == Placement.State.LOADED and Node.objects.filter(pk=row.node_id, misses=0).exists():
            return str(row.node.name)
    return ""


def _has_it(operation: Operation) -> QuerySet:
    """Where it is loaded, of the nodes that are meant, as far as is known."""
    rows = Placement.objects.filter(model=operation.model, state="loaded", node__healthy=True)
    return rows.filter(node__name=operation.wanted_node) if operation.wanted_node else rows


def _arriving(operation: Operation) -> str:
    """The node that brings it back by itself, after a restart of its device; within a load's bounds."""
    rows = Placement.objects.filter(model=operation.model, state="loading", node__healthy=True)
    if operation.wanted_node:
        rows = rows.filter(node__name=operation.wanted_node)
    for row in rows.select_related("node") if _waited_s(operation) < settings.CAPACITY_WAIT_S else ():
        polling.poll_node(row.node)
        row.refresh_from_db()
        if row.state == Placement.State.LOADING:
            return str(row.node.name)
    return ""


def _waited_s(operation: Operation) -> float:
    waited: timedelta = timezone.now() - operation.created_at
    return waited.total_seconds()


def choose(lease: Lease) -> None:
    """Decide for a node and claim its devices, or say why that cannot be (now)."""
    operation = lease.operation
    healthy = Node.objects.filter(healthy=True, kind=Node.Kind.NEURON).values_list("name", flat=True)
    polling.poll(names=[operation.wanted_node] if operation.wanted_node else list(healthy))
    lease.beat()
    if not operation.replica and _has_it(operation).filter(node__misses=0).exists():
        raise PostponedError("a node has it already", delay_s=0)
    decision = placing.place(
        _need(operation),
        placement_facts.nodes(
            only=operation.wanted_node,
            leave_out=_given_up(operation),
            patient=_waited_s(operation) < settings.SWAP_WAIT_S,
        ),
        current().eviction.strategy,
    )
    explanation = [_explained(verdict) for verdict in decision.verdicts]
    lease.note(explanation=operation.failed_nodes + explanation)
    if decision.chosen is None:
        raise _why_not(operation, decision)
    if decision.chosen.victims and (older := _waits_longer(operation, decision.chosen.node)):
        message = f"its turn on {decision.chosen.node} comes after operation #{older.pk}"
        raise PostponedError(message, delay_s=RETRY_PLACEMENT_S)
    _settle(lease, decision.chosen)


def _waits_longer(operation: Operation, node: str) -> Operation | None:
    """A load that waits for models to leave that node, and was asked for before: no swap overtakes it."""
    rows = Operation.objects.filter(kind=operation.kind, state=State.PENDING, pk__lt=operation.pk)
    waiting = rows.filter(replica=False).order_by("pk")
    return next((row for row in waiting if _explained_as_busy(row, node)), None)


def _explained_as_busy(row: Operation, node: str) -> bool:
    return any(entry["node"] == node and entry["outlook"] == Outlook.BUSY for entry in row.explanation)


def _need(operation: Operation) -> Need:
    """What did not suffice on one node will not suffice on another: each such failure raises the need."""
    tried = [entry["free_mb"] for entry in operation.failed_nodes if entry["code"] == NO_ROOM]
    need = placement_facts.need(operation.model, floor_mb=max(tried, default=-1) + 1)
    return replace(need, priority=NOBODY_YIELDS) if operation.replica else need


def _given_up(operation: Operation) -> set[str]:
    """The nodes that will not do better with more room."""
    return {entry["node"] for entry in operation.failed_nodes if entry["code"] != NO_ROOM}


def _explained(verdict: NodeVerdict) -> dict[str, str]:
    return {"node": verdict.node, "outlook": verdict.outlook, "message": verdict.reason}


def _settle(lease: Lease, verdict: NodeVerdict) -> None:
    """Claim and placement come about together: whoever takes the operation over finds both, or neither."""
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
        if row.state in {Placement.State.UNLOADED, Placement.State.FAILED}:
            row.move(Placement.State.LOADING)


def _why_not(operation: Operation, decision: placing.Decision) -> OutcomeError:
    """Wait within bounds for what time may bring; else fail, with a node's own words if one has tried."""
    waited_s = _waited_s(operation)
    reason = "; ".join(f"{verdict.node}: {verdict.reason}" for verdict in decision.verdicts)
    match decision.outlook:
        case Outlook.BUSY if waited_s < settings.CAPACITY_WAIT_S:
            return PostponedError(reason, delay_s=RETRY_PLACEMENT_S)
        case Outlook.DOWN if waited_s < settings.NODE_WAIT_S and not operation.failed_nodes:
            return PostponedError(reason, delay_s=RETRY_PLACEMENT_S)
    if operation.failed_nodes:
        last = operation.failed_nodes[-1]
        return OperationError(last["code"], last["message"])
    if not decision.verdicts:
        return OperationError("no_node", "no node is configured")
    code = {Outlook.BUSY: "no_capacity", Outlook.DOWN: "node_unreachable"}.get(
        decision.outlook, "no_node_fits"
    )
    return OperationError(code, reason)


def _give_up_on(lease: Lease, node: Node, error: OperationError) -> None:
    """Note that this node could not, and go on elsewhere or with more room; re-raise where neither helps."""
    operation = lease.operation
    row: Placement = Placement.objects.get(node=node, model=operation.model)
    Placement.objects.filter(pk=row.pk).update(
        state=Placement.State.FAILED, error_code=error.code[:100], error_message=error.message, progress=None
    )
    polling.poll_node(node)
    failed = {
        "node": node.name,
        "outlook": "failed",
        "code": error.code,
        "message": error.message,
        "free_mb": _free_mb(row),
    }
    tried = [*operation.failed_nodes, failed]
    lease.note(failed_nodes=tried, explanation=[*tried, *_others(operation, node)])
    stuck = operation.wanted_node and error.code != NO_ROOM
    if stuck or error.code in MODEL_FAULTS or len(tried) >= MAX_TRIES:
        raise error
    lease.release(node="", victims=[])


def _free_mb(row: Placement) -> int:
    """On the devices of that placement together."""
    devices = Device.objects.filter(node=row.node, index__in=row.devices)
    return devices.aggregate(free=Sum("memory_free_mb"))["free"] or 0


def _others(operation: Operation, node: Node) -> list[dict[str, str]]:
    return [entry for entry in operation.explanation if entry["node"] != node.name and "code" not in entry]


def _load_on(lease: Lease, node: Node) -> None:
    row = Placement.objects.get(node=node, model=lease.operation.model)
    start = monotonic()
    with NeuronClient(node) as client:
        for victim in Placement.objects.filter(node=node, model__in=lease.operation.victims).exclude(
            state=Placement.State.UNLOADED
        ):
            lease.note(message=f"evicting {victim.model} from {node.name}")
            try:
                leave = Leave(grace_s=settings.DRAIN_GRACE_S, force=False)
                evict(lease, client, victim, leave, f"makes room for {lease.operation.model}")
            except BusyError as error:
                raise PostponedError(error.message, delay_s=RETRY_PLACEMENT_S) from error
        if lease.operation.victims:
            _await_memory(lease, node, row)
            metrics.EVICTION_WAIT.labels(row.model, node.name).observe(monotonic() - start)
        lease.note(message=f"loading on {node.name}")
        info = _follow(lease, client, _spec(row))
    _record(row, info)
    polling.poll_node(node)


def _await_memory(lease: Lease, node: Node, row: Placement) -> None:
    """Loading may begin when the memory of the evicted is measured to be free, not before."""
    needed = _need(lease.operation).memory_mb
    deadline = monotonic() + settings.MEMORY_WAIT_S
    while True:
        polling.poll_node(node)
        lease.beat()
        free = _free_mb(row)
        if free >= needed:
            return
        if monotonic() >= deadline:
            message = f"{node.name}: {free} of {needed} MiB are free after the evictions"
            raise OperationError("memory_not_returned", message)
        sleep(settings.LOOK_EVERY_S)


def _spec(row: Placement) -> ModelSpec:
    profile: ModelProfile | None = ModelProfile.objects.filter(model_id=row.model).first()
    if profile is None:
        return ModelSpec(model_id=row.model, source=row.source or None, devices=row.devices)
    return ModelSpec(
        model_id=row.model,
        source=profile.source or None,
        harness=profile.harness,
        quant=profile.quant or None,
        devices=row.devices,
    )


def _follow(lease: Lease, client: NeuronClient, spec: ModelSpec) -> ModelInfo:
    """Ask for the load and watch it. A node may answer at once or at the end, and may restart in between."""
    deadline = monotonic() + settings.LOAD_TIMEOUT_S
    heard_at = monotonic()
    asked = 1
    call = BackgroundCall(lambda: client.load(spec))
    while monotonic() < deadline:
        answered = call.pause()
        try:
            info = client.model(spec.model_id)
            heard_at = monotonic()
        except NodeError as error:
            if monotonic() - heard_at > settings.NODE_WAIT_S:
                raise OperationError(error.code, error.message) from error
            info = None
        lease.beat(info.progress if info else None)
        if info and info.state == "loaded":
            return info
        if not answered or (info and info.state == "loading"):
            continue
        if isinstance(call.error, NodeError) and not call.error.is_silence:
            raise OperationError(call.error.code, call.error.message)
        if info and info.state == "failed":
            raise _said(info)
        if info is None and call.error is None:
            asked += 1  # it said yes, and has forgotten
        if asked > MAX_ASKED:
            raise OperationError("load_forgotten", f"the node says it loads {spec.model_id}, and does not")
        call = BackgroundCall(lambda: client.load(spec))
    raise OperationError("load_timeout", f"{spec.model_id}: not loaded within {settings.LOAD_TIMEOUT_S:g} s")


def _said(info: ModelInfo) -> OperationError:
    if info.error:
        return OperationError(info.error.code, info.error.message)
    return OperationError("load_failed", f"{info.id} failed without a reason")


def _record(row: Placement, info: ModelInfo) -> None:
    now = timezone.now()
    row.refresh_from_db()
    reports.copy_info(row, info, now)
    row.last_used_at = now  # somebody asked for it: it is not the next victim
    row.save()
    measured = {"measured_mb": info.memory_mb, "needed_mb": info.needed_mb}
    ModelProfile.objects.filter(model_id=row.model).update(**{k: v for k, v in measured.items() if v})
