"""Adding a model: by hub id or directory, with a look at what is there before anything is downloaded."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse

from fleet.models import ModelProfile, Node
from fleet.permissions import asker, may_operate
from fleet.services import adding, lifecycle
from neuron.wire import ApiError

MOST_CHARS = 500  # of a source


def add_model(request: HttpRequest) -> HttpResponse:
    """Look for `?source=` and show what was found, or do what a button says with one of its forms."""
    if not may_operate(request) or not request.user.has_perm("fleet.add_modelprofile"):
        raise PermissionDenied
    if request.method == "POST":
        return _act(request)
    source = request.GET.get("source", "").strip()[:MOST_CHARS]
    node = request.GET.get("node", "")
    shown: dict[str, Any] = {"title": "Add a model", "source": source, "node": node}
    shown["nodes"] = (
        Node.objects.filter(kind=Node.Kind.NEURON).order_by("name").values_list("name", flat=True)
    )
    if source:
        try:
            shown["outcome"] = adding.look(source, node or None)
        except ApiError as error:
            messages.error(request, error.message)
    return TemplateResponse(request, "admin/fleet/add_model.html", admin.site.each_context(request) | shown)


def _act(request: HttpRequest) -> HttpResponse:
    source, quant, node = (request.POST.get(name, "")[:MOST_CHARS] for name in ("source", "quant", "node"))
    here = f"{reverse('fleet-add-model')}?{urlencode({'source': source, 'node': node})}"
    try:
        if request.POST.get("verb") == "download":
            adding.download(source, quant, node, requested_by=asker(request))
            messages.success(request, f"{node} downloads {source}.")
            return HttpResponseRedirect(here)
        model = _add(request, source, quant)
        lifecycle.load(model, node or None, requested_by=asker(request), reason="added in the admin")
    except ApiError as error:
        messages.error(request, error.message)
        return HttpResponseRedirect(here)
    messages.success(request, f"{model} is in the catalogue, and its load has begun.")
    return HttpResponseRedirect(reverse("fleet-model", args=[model]))


def _add(request: HttpRequest, source: str, quant: str) -> str:
    """Put the model into the catalogue under the name that was asked for. Raises `ApiError` 409."""
    name = request.POST.get("name", "").strip()[:200] or source
    row = ModelProfile(model_id=name, source="" if name == source else source, quant=quant)
    if ModelProfile.objects.filter(model_id=name).exists():
        message = f"{name} is in the catalogue already: give this one another name, or change that one."
        raise ApiError(409, "model_exists", message, param="name")
    page = admin.site.get_model_admin(ModelProfile)
    row.save()
    page.log_addition(request, row, [{"added": {}}])
    return name
