"""Where models may be: the cordons and pins that an operator sets.

Each verb writes who asked and why to the audit log, and raises `ApiError`: 404 for what is not there, 409 for
what cannot be set here.
"""

from __future__ import annotations

from django.db import transaction

from fleet.models import ModelProfile, Node
from fleet.services import audit
from fleet.services.database import connected
from fleet.services.lookup import neuron, resolve
from neuron.wire import ApiError


@connected
def cordon(node: str, *, requested_by: str, reason: str = "") -> None:
    """Load nothing new on the node; its models stay."""
    _set_cordoned(node, True, requested_by, reason)


@connected
def uncordon(node: str, *, requested_by: str, reason: str = "") -> None:
    """Allow loads on the node again; a drain that is under way goes on."""
    _set_cordoned(node, False, requested_by, reason)


def _set_cordoned(name: str, cordoned: bool, who: str, why: str) -> None:
    row = neuron(name)
    if row.cordoned == cordoned:
        return
    with transaction.atomic():
        Node.objects.filter(pk=row.pk).update(cordoned=cordoned)
        audit.note(who, "cordon" if cordoned else "uncordon", name, why)


@connected
def pin(model_id: str, node: str | None = None, *, requested_by: str, reason: str = "") -> None:
    """Never evict the model wherever it is loaded; or keep it loaded on `node`."""
    if node is not None:
        neuron(node)
    profile = _profile(model_id)
    if node is None:
        profile.pinned = True
    elif node not in profile.pinned_on:
        profile.pinned_on = [*profile.pinned_on, node]
    _save(profile, "pin", node, requested_by, reason)


@connected
def unpin(model_id: str, node: str | None = None, *, requested_by: str, reason: str = "") -> None:
    """Remove the model's pin on `node`, or all of its pins."""
    profile = _profile(model_id)
    if node is None:
        profile.pinned = False
        profile.pinned_on = []
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


def _profile(model_id: str) -> ModelProfile:
    model = resolve(model_id)
    profile: ModelProfile | None = ModelProfile.objects.filter(model_id=model).first()
    if profile is None:
        message = f"{model!r} is not in the catalogue: add it in the admin or to models.toml."
        raise ApiError(404, "model_not_found", message, param="model")
    if profile.from_file:
        message = f"models.toml decides where {model} is pinned: change it there."
        raise ApiError(409, "owned_by_file", message, param="model")
    return profile
