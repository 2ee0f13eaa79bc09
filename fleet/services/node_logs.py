"""What nodes logged last, and the servers of managed engines, as their nodes tell it."""

from __future__ import annotations

from fleet.models import Placement
from fleet.services import lookup
from fleet.services.database import connected
from fleet.services.neuron_client import NeuronClient, NodeError
from neuron.wire import ApiError, NodeLog


def lines_of(model: str, node: str | None, *, lines: int) -> list[str]:
    """The last lines of a model's server; none of a model that runs in neuron's own workers.

    Raises `ApiError`: 404 where the model is not on that node or on none, 502 when its node does not tell.
    """
    meant = lookup.resolve(model)
    rows = Placement.objects.filter(model=meant).exclude(state=Placement.State.UNLOADED)
    if node is not None:
        rows = rows.filter(node=lookup.neuron(node))
    row: Placement | None = rows.select_related("node").order_by("node__name").first()
    if row is None:
        where = f"on {node}" if node else "on any node"
        raise ApiError(404, "model_not_loaded", f"{meant} is not {where}.", param="model")
    try:
        with NeuronClient(row.node) as client:
            return client.log(meant, lines)
    except NodeError as error:
        raise ApiError(502, error.code, error.message) from error


@connected
def lines_of_node(node: str, *, after: int | None, match: str) -> NodeLog:
    """The last lines of a neuron's processes that contain `match`, or those from `after` on.

    Raises `ApiError`: 404 for a name that is no neuron's, 502 when it does not tell.
    """
    try:
        with NeuronClient(lookup.neuron(node)) as client:
            return client.node_log(after, match)
    except NodeError as error:
        raise ApiError(502, error.code, error.message) from error
