from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest
from django.template.response import TemplateResponse


def live(request: HttpRequest) -> TemplateResponse:
    """The page of the live fleet, which fills itself from `/ws/fleet`."""
    context = admin.site.each_context(request) | {"title": "Live fleet"}
    return TemplateResponse(request, "admin/fleet/live.html", context)
