"""Carries a drain out: unloads every model of a node, one after the other, each after its requests."""

from __future__ import annotations

from fleet.models import Placement
from fleet.services import polling
from fleet.services.neuron_client import NeuronClient
from fleet.services.operations.errors import OperationError, PostponedError
from fleet.services.operations.lease import Lease
from fleet.services.operations.unloading import BusyError, evict, leave_of, node_named


def run(lease: Lease) -> str:
    """Unload all models of the operation's node and return what happened. Idempotent."""
    operation = lease.operation
    node = node_named(operation.wanted_node)
    devices = set(node.devices.values_list("index", flat=True))
    if not lease.claim(node.name, devices, node=node.name):
        raise PostponedError("waits for another operation on its devices", delay_s=1)
    polling.poll_node(node)
    rows = list(Placement.objects.filter(node=node, state__in=Placement.RESIDENT).select_related("node"))
    busy = []
    with NeuronClient(node) as client:
        for row in rows:
            lease.note(message=f"{row.model} is leaving {node.name}")
            try:
                evict(lease, client, row, leave_of(operation), f"drains {node.name}")
            except BusyError as error:
                busy.append(error)
    polling.poll_node(node)
    if busy:
        raise OperationError(busy[0].code, "; ".join(error.message for error in busy))
    return f"{len(rows)} models left {node.name}, which is cordoned"
