"""Carries out the restart of a device's worker, for an operator or for memory in one piece.

The node does it: it lets requests end, replaces the process and reloads its models. A node that is asked
again, by a worker that takes over, joins the restart that is under way.
"""

from __future__ import annotations

from time import monotonic

from django.conf import settings

from fleet.models import Node, Placement
from fleet.operations import OperationKind
from fleet.services import metrics, polling
from fleet.services.neuron_client import NeuronClient, NodeError
from fleet.services.operations.background import BackgroundCall
from fleet.services.operations.errors import OperationError, PostponedError
from fleet.services.operations.lease import Lease
from fleet.services.operations.unloading import leave_of, node_named


def run(lease: Lease) -> str:
    """Restart the operation's device and return what happened."""
    operation = lease.operation
    node = node_named(operation.wanted_node)
    device = operation.device or 0
    if not lease.claim(node.name, _touched(node, device), node=node.name):
        raise PostponedError("waits for another operation on its device", delay_s=1)
    leave = leave_of(operation)
    with NeuronClient(node) as client:
        lease.note(message=f"waits for the requests on {node.name}:{device}, then restarts its worker")
        call = BackgroundCall(lambda: client.restart(device, leave))
        deadline = monotonic() + settings.LOAD_TIMEOUT_S + leave.grace_s
        while not call.pause():
            lease.beat()
            if monotonic() > deadline:
                raise OperationError("restart_timeout", f"{node.name}:{device} did not come back")
    polling.poll_node(node)
    if isinstance(call.error, NodeError):
        raise OperationError(call.error.code, call.error.message)
    if call.error:
        raise call.error
    if operation.kind == OperationKind.DEFRAG:
        metrics.DEFRAGS.labels(node.name, str(device)).inc()
    return f"{node.name}:{device} has a new worker and its models"


def _touched(node: Node, device: int) -> set[int]:
    """The devices of all models that are reloaded with it."""
    rows = Placement.objects.filter(node=node, state__in=Placement.RESIDENT)
    return {device}.union(*(row.devices for row in rows if device in row.devices))
