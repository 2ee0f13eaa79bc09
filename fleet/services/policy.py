"""What an operator decides about nodes, devices and residency. Each verb says who and why in the audit log.

Raises `ApiError`: 404 for what is not there, 409 for what cannot be now.
"""

from __future__ import annotations

from django.db import transaction

from fleet.models import Device, ModelProfile, Node, Operation
from fleet.services import audit, lifecycle
from fleet.services.database import connected
from fleet.services.lifecycle import OperationView
from neuron.wire import ApiError


@connected
def cordon(node: str, *, requested_by: str, reason: str = "") -> None:
    """Nothing new is loaded there; what is loaded goes on."""
    _set_cordoned(node, True, requested_by, reason)


@connected
def uncordon(node: str, *, requested_by: str, reason: str = "") -> None:
    """Models may be loaded there again; a drain under way is cancelled if it has not begun."""
    _set_cordoned(node, False, requested_by, reason)


def _set_cordoned(name: str, cordoned: bool, who: str, why: str) -> None:
    row = _neuron(name)
    if row.cordoned != cordoned:
        with transaction.atomic():
            Node.objects.filter(pk=row.pk).update(cordoned=cordoned)
            audit.note(who, "cordon" if cordoned else "uncordon", name, why)


@connected
def drain(node: str, *, requested_by: str, reason: str = "", force: bool = False) -> OperationView:
    """Cordon it, and have all of its models leave, after their requests unless forced."""
    _set_cordoned(node, True, requested_by, reason or "drain")
    return lifecycle.start(
        Operation(
            kind="drain", wanted_node=node, node=node, requested_by=requested_by, reason=reason, force=force
        ),
        {"kind": "drain", "wanted_node": node},
    )


@connected
def restart(
    node: str,
    device: int,
    *,
    requested_by: str,
    reason: str = "",
    force: bool = False,
    kind: str = Operation.Kind.RESTART,
) -> OperationView:
    """A new worker for the device; its models are loaded again. `kind` may be defrag."""
    _neuron(node)
    if not Device.objects.filter(node__name=node, index=device).exists():
        raise ApiError(404, "device_not_found", f"{node} has no device {device}.", param="device")
    wish = Operation(
        kind=kind,
        wanted_node=node,
        node=node,
        device=device,
        requested_by=requested_by,
        reason=reason,
        force=force,
    )
    return lifecycle.start(wish, {"kind__in": ("restart", "defrag"), "wanted_node": node, "device": device})


@connected
def pin(model_id: str, node: str | None = None, *, requested_by: str, reason: str = "") -> None:
    """Never evict the model: where it is, or kept loaded on `node`."""
    if node is not None:
        _neuron(node)
    profile = _profile(model_id)
    if node is None:
        profile.pinned = True
    elif node not in profile.pinned_on:
        profile.pinned_on = [*profile.pinned_on, node]
    _save(profile, "pin", node, requested_by, reason)


@connected
def unpin(model_id: str, node: str | None = None, *, requested_by: str, reason: str = "") -> None:
    """From `node`, or altogether."""
    profile = _profile(model_id)
    if node is None:
        profile.pinned, profile.pinned_on = False, []
    elif node in profile.pinned_on:
        profile.pinned_on = [name for name in profile.pinned_on if name != node]
    else:
        raise ApiError(404, "not_pinned", f"{model_id} is not pinned on {node}.", param="node")
    _save(profile, "unpin", node, requested_by, reason)


def _save(profile: ModelProfile, action: str, node: str | None, who: str, why: str) -> None:
    with transaction.atomic():
        profile.save()
        audit.note(
            who, action, profile.model_id, why, node=node, pinned=profile.pinned, pinned_on=profile.pinned_on
        )


def _neuron(name: str) -> Node:
    row: Node | None = Node.objects.filter(name=name).first()
    if row is None:
        raise ApiError(404, "node_not_found", f"There is no node {name!r}.", param="node")
    if row.is_foreign:
        message = f"{name} is no neuron: cortex does not decide what runs there."
        raise ApiError(409, "no_lifecycle", message, param="node")
    return row


def _profile(model_id: str) -> ModelProfile:
    model = lifecycle.resolve(model_id)
    profile: ModelProfile | None = ModelProfile.objects.filter(model_id=model).first()
    if profile is None:
        message = f"{model!r} is not in the catalogue: add it in the admin or to models.toml."
        raise ApiError(404, "model_not_found", message, param="model")
    if profile.from_file:
        message = f"models.toml says where {model} is pinned: change it there."
        raise ApiError(409, "owned_by_file", message, param="model")
    return profile
