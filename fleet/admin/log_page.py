"""The logs of this machine's processes and of nodes, in the admin: the last lines, and those that come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, JsonResponse
from django.template.response import TemplateResponse

from cortex_site.base import log_files
from cortex_site.config import current
from fleet.models import Node
from fleet.permissions import may_operate
from fleet.services import node_logs
from neuron.wire import ApiError

MAX_MATCH_CHARS = 200


def logs(request: HttpRequest) -> TemplateResponse:
    """The page, which fills itself."""
    _require(request)
    names = log_files.names(_folder())
    nodes = Node.objects.filter(kind=Node.Kind.NEURON).order_by("name").values_list("name", flat=True)
    context = admin.site.each_context(request) | {"title": "Logs", "names": names, "nodes": nodes}
    return TemplateResponse(request, "admin/fleet/logs.html", context)


def log_lines(request: HttpRequest) -> JsonResponse:
    """Lines of `?name=` or `?node=` that contain `match`, from `after` on, or the last ones."""
    _require(request)
    after = request.GET.get("after", "")
    wanted: dict[str, Any] = {
        "after": int(after) if after.isdecimal() else None,
        "match": request.GET.get("match", "")[:MAX_MATCH_CHARS],
    }
    try:
        if node := request.GET.get("node"):
            return JsonResponse(node_logs.lines_of_node(node, **wanted).model_dump())
        return JsonResponse(log_files.read(_folder(), request.GET.get("name", ""), **wanted)._asdict())
    except ApiError as error:
        return JsonResponse({"error": error.message}, status=error.status)
    except OSError:
        return JsonResponse({"error": "there is no such log"}, status=404)


def _folder() -> Path:
    return current().home / "logs"


def _require(request: HttpRequest) -> None:
    """Logs name clients and paths: they are for those who may operate."""
    if not may_operate(request):
        raise PermissionDenied
