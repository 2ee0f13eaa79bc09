"""The page of one model: where it is and why, what it takes, how quick it was, what failed, and its verbs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse

from fleet.admin.base import origin
from fleet.permissions import may_operate
from fleet.services import lifecycle, model_facts, policy
from neuron.wire import ApiError

# By the value of a button: what is called with the model, and the node if the button is one of a node.
VERBS: dict[str, Callable[..., Any]] = {
    "load": lifecycle.load,
    "unload": lifecycle.unload,
    "unload now": partial(lifecycle.unload, force=True),
    "pin": policy.pin,
    "unpin": policy.unpin,
}


def model_page(request: HttpRequest, model: str) -> HttpResponse:
    """Show the model, or carry out the verb of a button."""
    if request.method == "POST":
        return _carry_out(request, model)
    facts = model_facts.gather(model)
    if not facts.is_known:
        raise Http404(f"No model is called {model}.")
    context = admin.site.each_context(request) | {
        "title": model,
        "facts": facts,
        "may_operate": may_operate(request),
    }
    return TemplateResponse(request, "admin/fleet/model.html", context)


def _carry_out(request: HttpRequest, model: str) -> HttpResponse:
    if not may_operate(request):
        raise PermissionDenied
    verb = VERBS.get(request.POST.get("verb", ""))
    if verb is None:
        raise Http404("There is no such verb.")
    node = request.POST.get("node") or None
    try:
        done = verb(model, node, **origin(request))
    except ApiError as error:
        messages.error(request, error.message)
    else:
        messages.success(
            request, f"{done.subject}: operation #{done.id} is {done.state}" if done else "Done."
        )
    return HttpResponseRedirect(reverse("fleet-model", args=[model]))
