from __future__ import annotations

from django.http import HttpRequest, JsonResponse

from fleet.services.traffic import SPANS, series


def traffic(request: HttpRequest) -> JsonResponse:
    """The series of one span, `?span=hour`, that the home page plots."""
    span = SPANS.get(request.GET.get("span", "hour"))
    if span is None:
        return JsonResponse({"error": f"span is one of {', '.join(SPANS)}"}, status=400)
    return JsonResponse(series(span))
