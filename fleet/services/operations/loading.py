"""Carries a load out: chooses a node, makes room there and loads.

Each step leaves the row such that a worker that takes over goes on from it: a choice that was made stands,
and a node may be asked again for what it does already. No transaction is open during a call to a node.
"""

from __future__ import annotations

from time import monotonic, sleep

from django.conf import settings
from django.utils import timezone

from fleet.models import Device, ModelProfile, Node, Operation, Placement
from fleet.services import metrics, polling, reports
from fleet.services.neuron_client import NeuronClient, NodeError
from fleet.services.operations.background import BackgroundCall
from fleet.services.operations.choosing import (
    NO_ROOM,
    RETRY_PLACEMENT_S,
    choose,
    loaded_placements,
    need_of,
    waited_s,
)
from fleet.services.operations.errors import OperationError, PostponedError
from fleet.services.operations.lease import Lease
from fleet.services.operations.specs import spec_of
from fleet.services.operations.unloading import BusyError, evict, leave_evicted, node_named
from neuron.wire import ModelInfo, ModelSpec

MAX_TRIES = 6
MAX_ASKED = 3
MODEL_FAULTS = frozenset({"model_unsupported"})  # no other node would do better


def run(lease: Lease) -> str:
    """Load the operation's model and return what happened."""
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
    """The name of a node that has the model already; it is polled first, since rows may be stale."""
    if operation.replica:
        return ""
    for row in loaded_placements(operation).select_related("node"):
        polling.poll_node(row.node)
        row.refresh_from_db()
        if row.state == Placement.State.LOADED and Node.objects.filter(pk=row.node_id, misses=0).exists():
            return str(row.node.name)
    return ""


def _arriving(operation: Operation) -> str:
    """The name of a node that reloads the model by itself, as after a restart; "" past `CAPACITY_WAIT_S`."""
    if waited_s(operation) >= settings.CAPACITY_WAIT_S:
        return ""
    rows = Placement.objects.filter(model=operation.model, state="loading", node__healthy=True)
    if operation.wanted_node:
        rows = rows.filter(node__name=operation.wanted_node)
    for row in rows.select_related("node"):
        polling.poll_node(row.node)
        row.refresh_from_db()
        if row.state == Placement.State.LOADING:
            return str(row.node.name)
    return ""


def _give_up_on(lease: Lease, node: Node, error: OperationError) -> None:
    """Record the failure and release the node for another try; re-raise if no other node would do better."""
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
    """Free memory on the placement's devices together that equal parts can use, MiB."""
    devices = Device.objects.filter(node=row.node, index__in=row.devices)
    free = list(devices.values_list("memory_free_mb", flat=True))
    return len(free) * min(free, default=0)


def _others(operation: Operation, node: Node) -> list[dict[str, str]]:
    return [entry for entry in operation.explanation if entry["node"] != node.name and "code" not in entry]


def _load_on(lease: Lease, node: Node) -> None:
    row = Placement.objects.get(node=node, model=lease.operation.model)
    start = monotonic()
    with NeuronClient(node, traceparent=lease.operation.traceparent) as client:
        if lease.operation.victims:
            client.read_ahead(spec_of(row))
        for victim in Placement.objects.filter(node=node, model__in=lease.operation.victims).exclude(
            state__in=(Placement.State.UNLOADED, Placement.State.ASLEEP)
        ):
            lease.note(message=f"evicting {victim.model} from {node.name}")
            try:
                leave = leave_evicted(victim.model)
                evict(lease, client, victim, leave, f"makes room for {lease.operation.model}")
            except BusyError as error:
                raise PostponedError(error.message, delay_s=RETRY_PLACEMENT_S) from error
        if lease.operation.victims:
            _await_memory(lease, node, row)
            metrics.EVICTION_WAIT.labels(row.model, node.name).observe(monotonic() - start)
        lease.note(message=f"loading on {node.name}")
        info = _follow(lease, client, spec_of(row))
    _record(row, info)
    polling.poll_node(node)


def _await_memory(lease: Lease, node: Node, row: Placement) -> None:
    """Wait until the memory of the evicted models is measured to be free.

    Raises `OperationError` after `MEMORY_WAIT_S`.
    """
    needed = need_of(lease.operation).memory_mb
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


def _follow(lease: Lease, client: NeuronClient, spec: ModelSpec) -> ModelInfo:
    """Ask for the load and watch it until it is loaded.

    A node may answer at once or at the end, and may restart in between: then it is asked again. Raises
    `OperationError` in the node's own words, or when it takes too long.
    """
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
        state = info.state if info else ""
        lease.beat(info.progress if info else None)
        if info and state == "loaded":
            return info
        if not answered or state == "loading":
            continue
        if isinstance(call.error, NodeError) and not call.error.is_silence:
            raise OperationError(call.error.code, call.error.message)
        if info and state == "failed":
            raise _failure(info)
        if info is None and call.error is None:
            asked += 1  # it accepted, and does not know the model any more
        if asked > MAX_ASKED:
            raise OperationError("load_forgotten", f"the node says it loads {spec.model_id}, and does not")
        call = BackgroundCall(lambda: client.load(spec))
    raise OperationError("load_timeout", f"{spec.model_id}: not loaded within {settings.LOAD_TIMEOUT_S:g} s")


def _failure(info: ModelInfo) -> OperationError:
    if info.error:
        return OperationError(info.error.code, info.error.message)
    return OperationError("load_failed", f"{info.id} failed without a reason")


def _record(row: Placement, info: ModelInfo) -> None:
    now = timezone.now()
    row.refresh_from_db()
    reports.copy_info(row, info, now)
    row.last_used_at = now  # it was asked for just now, and must not be the next victim
    row.save()
    measured = {"measured_mb": info.memory_mb, "needed_mb": info.needed_mb}
    ModelProfile.objects.filter(model_id=row.model).update(**{k: v for k, v in measured.items() if v})
