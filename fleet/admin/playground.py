"""The playground's page, and its way to the API: the browser speaks to the admin, which adds the key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
from asgiref.sync import sync_to_async
from django.contrib import admin
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.template.response import TemplateResponse

from cortex_site.base.addresses import local_url
from cortex_site.config import current
from fleet.services import session_keys

MAX_BODY_BYTES = 32 << 20  # chats with pictures
CONNECT_TIMEOUT_S = 5.0
NEW_KEY_WAIT_S = 5.0  # until every gateway knows it
NEW_KEY_CHECK_S = 0.25
PATHS = {"GET": ("models",), "POST": ("chat/completions",)}
PASSED = ("content-type", "retry-after", "x-request-id", "x-cortex-node", "x-cortex-ignored")


def playground(request: HttpRequest) -> TemplateResponse:
    """The page, which fills itself from the API."""
    context = admin.site.each_context(request) | {"title": "Playground", "api_url": _api_url()}
    return TemplateResponse(request, "admin/fleet/playground.html", context)


async def playground_api(request: HttpRequest, path: str) -> HttpResponseBase:
    """The API's answer to the signed-in user's session, as it comes."""
    if not await sync_to_async(admin.site.has_permission)(request):
        return _error(403, "forbidden", "Sign in to the admin first.")
    if path not in PATHS.get(request.method or "", ()):
        return _error(404, "not_found", f"The playground does not ask for {request.method} {path}.")
    body = request.read(MAX_BODY_BYTES + 1)
    if len(body) > MAX_BODY_BYTES:
        return _error(413, "body_too_large", f"The chat is larger than {MAX_BODY_BYTES >> 20} MiB.")
    user = str(await request.auser())
    key, is_new = await sync_to_async(session_keys.obtain)(user, request.session)
    try:
        return await _relay(request.method or "", path, body, key, NEW_KEY_WAIT_S if is_new else 0.0)
    except httpx.HTTPError as error:
        return _error(502, "gateway_unreachable", f"The gateway does not answer: {error}")


async def _relay(method: str, path: str, body: bytes, key: str, patience_s: float) -> HttpResponseBase:
    # the gateway of this machine, whose certificate names the outside's name
    http = httpx.AsyncClient(
        verify=False,  # noqa: S501
        trust_env=False,
        timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
    )
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    request = http.build_request(method, f"{_api_url()}/v1/{path}", content=body, headers=headers)
    response: HttpResponseBase
    try:
        answer = await _send(http, request, patience_s)
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            response = StreamingHttpResponse(_body(http, answer), status=answer.status_code)
        else:
            response = HttpResponse(await answer.aread(), status=answer.status_code)
            await http.aclose()
    except BaseException:
        await http.aclose()
        raise
    for name in PASSED:
        if name in answer.headers:
            response[name] = answer.headers[name]
    response["cache-control"] = "no-store"
    return response


async def _send(http: httpx.AsyncClient, request: httpx.Request, patience_s: float) -> httpx.Response:
    """Return the answer's head; a key that is refused is tried again for as long as there is patience."""
    while True:
        answer = await http.send(request, stream=True)
        if answer.status_code != httpx.codes.UNAUTHORIZED or patience_s <= 0:
            return answer
        await answer.aclose()
        await asyncio.sleep(NEW_KEY_CHECK_S)
        patience_s -= NEW_KEY_CHECK_S


async def _body(http: httpx.AsyncClient, answer: httpx.Response) -> AsyncIterator[bytes]:
    """The answer's pieces; ending it early, when the browser goes, ends the request at the gateway."""
    try:
        async for piece in answer.aiter_bytes():
            yield piece
    finally:
        await answer.aclose()
        await http.aclose()


def _api_url() -> str:
    gateway = current().gateway
    return local_url(gateway.listen, tls=gateway.speaks_tls)


def _error(status: int, code: str, message: str) -> HttpResponse:
    return JsonResponse({"error": {"message": message, "code": code, "type": "playground"}}, status=status)
