"""Pages, scripts and styles of the admin, compressed for browsers that take it."""

from __future__ import annotations

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.middleware.gzip import GZipMiddleware


class PageCompression(GZipMiddleware):
    """Django's, which hides the length of secrets, but for streams of events: these go as they come."""

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            return response
        compressed: HttpResponseBase = super().process_response(request, response)
        return compressed
