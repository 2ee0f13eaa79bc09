"""The logs of this machine's processes, in the admin: the last lines, and those that come."""

from __future__ import annotations

from pathlib import Path

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, JsonResponse
from django.template.response import TemplateResponse

from cortex_site.base import log_files
from cortex_site.config import current
from fleet.permissions import may_operate

MAX_MATCH_CHARS = 200


def logs(request: HttpRequest) -> TemplateResponse:
    """The page, which fills itself."""
    _require(request)
    names = log_files.names(_folder())
    context = admin.site.each_context(request) | {"title": "Logs", "names": names}
    return TemplateResponse(request, "admin/fleet/logs.html", context)


def log_lines(request: HttpRequest) -> JsonResponse:
    """Lines of `?name=` that contain `match`, from the byte `after` on, or the last ones."""
    _require(request)
    after = request.GET.get("after", "")
    match = request.GET.get("match", "")[:MAX_MATCH_CHARS]
    try:
        part = log_files.read(
            _folder(),
            request.GET.get("name", ""),
            after=int(after) if after.isdecimal() else None,
            match=match,
        )
    except OSError:
        return JsonResponse({"error": "there is no such log"}, status=404)
    return JsonResponse(part._asdict())


def _folder() -> Path:
    return current().home / "logs"


def _require(request: HttpRequest) -> None:
    """Logs name clients and paths: they are for those who may operate."""
    if not may_operate(request):
        raise PermissionDenied
