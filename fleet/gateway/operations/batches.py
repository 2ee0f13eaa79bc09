"""Files and batches: what they are and how far, from the control plane. Requests never come this way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from ninja import NinjaAPI

from cortex_site.http.request import Request
from cortex_site.http.response import Sink, StreamResponse
from fleet.gateway.control.plane import ControlPlaneError
from fleet.gateway.data_plane import DataPlane
from fleet.gateway.dialects.conversations import Metadata
from fleet.gateway.dialects.kept_items import asked_limit, asked_order, owner_of
from fleet.gateway.operations.shapes import json_answer, object_schema
from fleet.translation.validation import decode_body
from neuron.wire import ApiError

T = TypeVar("T")

MAX_FILES, MAX_BATCHES = 10_000, 100  # OpenAI's, of a page
_CHUNK = 1 << 18


class _NewBatch(msgspec.Struct):
    input_file_id: Annotated[str, msgspec.Meta(min_length=1)]
    endpoint: str
    completion_window: str
    metadata: Metadata | None = None


_new_batches = msgspec.json.Decoder(_NewBatch)


def declare_files(api: NinjaAPI, plane: DataPlane) -> None:
    control = plane.control.batches
    schema = {"multipart/form-data": {"schema": {"type": "object", "required": ["file", "purpose"]}}}

    @api.post("/v1/files", tags=["OpenAI"], openapi_extra={"requestBody": {"content": schema}})
    async def create_file(request: Request) -> HttpResponse:
        owner, kind = owner_of(plane.authorize(request)), request.header(b"content-type") or ""
        return json_answer(await _ask(control.create_file(owner, kind, request.body)))

    @api.get("/v1/files", tags=["OpenAI"])
    async def list_files(request: Request) -> HttpResponse:
        owner, given = owner_of(plane.authorize(request)), request.GET
        limit, order = asked_limit(given, MAX_FILES, MAX_FILES), asked_order(given)
        return json_answer(
            await _ask(control.files(owner, given.get("purpose"), given.get("after"), limit, order))
        )

    @api.get("/v1/files/{file_id}", tags=["OpenAI"])
    async def get_file(request: Request, file_id: str) -> HttpResponse:
        return json_answer(await _ask(control.file(owner_of(plane.authorize(request)), file_id)))

    @api.delete("/v1/files/{file_id}", tags=["OpenAI"])
    async def delete_file(request: Request, file_id: str) -> HttpResponse:
        return json_answer(await _ask(control.delete_file(owner_of(plane.authorize(request)), file_id)))

    @api.get("/v1/files/{file_id}/content", tags=["OpenAI"])
    async def get_file_content(request: Request, file_id: str) -> HttpResponseBase:
        return _download(await _ask(control.file_content(owner_of(plane.authorize(request)), file_id)))


def declare_batches(api: NinjaAPI, plane: DataPlane) -> None:
    control = plane.control.batches

    @api.post("/v1/batches", tags=["OpenAI"], openapi_extra=object_schema())
    async def create_batch(request: Request) -> HttpResponse:
        owner, given = owner_of(plane.authorize(request)), decode_body(_new_batches, request.body)
        made = control.create_batch(
            owner,
            input_file=given.input_file_id,
            endpoint=given.endpoint,
            window=given.completion_window,
            metadata=given.metadata or {},
        )
        return json_answer(await _ask(made))

    @api.get("/v1/batches", tags=["OpenAI"])
    async def list_batches(request: Request) -> HttpResponse:
        owner, given = owner_of(plane.authorize(request)), request.GET
        limit = asked_limit(given, 20, MAX_BATCHES)
        return json_answer(await _ask(control.batches(owner, given.get("after"), limit)))

    @api.get("/v1/batches/{batch_id}", tags=["OpenAI"])
    async def get_batch(request: Request, batch_id: str) -> HttpResponse:
        return json_answer(await _ask(control.batch(owner_of(plane.authorize(request)), batch_id)))

    @api.post("/v1/batches/{batch_id}/cancel", tags=["OpenAI"])
    async def cancel_batch(request: Request, batch_id: str) -> HttpResponse:
        return json_answer(await _ask(control.cancel_batch(owner_of(plane.authorize(request)), batch_id)))


def _download(path: Path) -> StreamResponse:
    async def produce(sink: Sink) -> None:
        with path.open("rb") as stream:
            while chunk := await asyncio.to_thread(stream.read, _CHUNK):
                await sink(chunk)

    return StreamResponse(
        produce, headers={"content-type": "application/octet-stream"}, on_close=lambda: None
    )


async def _ask(answer: Awaitable[T]) -> T:
    try:
        return await answer
    except ControlPlaneError as error:
        message = f"Files and batches cannot be reached: {error}. Requests to models are served."
        raise ApiError(503, "control_plane_away", message, retry_after_s=3) from error
