"""What an operator or a client names, found among the rows. Raises `ApiError` for what is not there."""

from __future__ import annotations

from fleet.models import Alias, Node
from neuron.wire import ApiError


def resolve(name: str) -> str:
    """The model that `name` stands for: an alias is followed once."""
    target = Alias.objects.filter(name=name).values_list("target", flat=True).first()
    return target or name


def neuron(name: str) -> Node:
    """The node of that name. Raises `ApiError`: 404 if there is none, 409 if it is no neuron."""
    row: Node | None = Node.objects.filter(name=name).first()
    if row is None:
        raise ApiError(404, "node_not_found", f"There is no node {name!r}.", param="node")
    if row.is_foreign:
        message = f"{name} is another server, not a neuron: cortex loads and unloads nothing there."
        raise ApiError(409, "no_lifecycle", message, param="node")
    return row
