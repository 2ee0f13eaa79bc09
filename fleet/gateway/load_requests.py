"""Requests of Ollama's clients that load a model and want no answer of it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from cortex_site.http.request import Request
from cortex_site.http.response import BytesResponse, Response, Sink, StreamResponse
from fleet.gateway.data_plane import DataPlane
from fleet.gateway.dialects.ollama import LINES, OllamaDialect, known_name
from fleet.gateway.limits.keys import check_model
from fleet.translation import ollama
from neuron.wire import ApiError

PROGRESS_S = 1.0  # between two lines
_STOPPING = ApiError(503, "gateway_stopping", "The gateway was stopped while the model was loaded.")


async def load(plane: DataPlane, request: Request, dialect: OllamaDialect) -> BytesResponse:
    """The answer to a chat or prompt without content, once its model is loaded. Raises `ApiError`."""
    asked = dialect.read(request.body)
    await _wait(plane, request, _model(plane, request, asked.model))
    return _json(dialect.loaded(asked.model))


async def pull(plane: DataPlane, request: Request) -> Response:
    """The answer to `/api/pull`: a line for each step of the load, or one at its end. Raises `ApiError`."""
    asked = ollama.named(request.body)
    model = _model(plane, request, asked.model)
    if not asked.stream:
        await _wait(plane, request, model)
        return _json(msgspec.json.encode({"status": "success"}))
    return StreamResponse(lambda sink: _report(plane, model, sink), headers={"content-type": LINES})


def _json(body: bytes) -> BytesResponse:
    return BytesResponse(body, headers={"content-type": "application/json"})


def _model(plane: DataPlane, request: Request, name: str) -> str:
    """The model that a caller names and may use. Raises `ApiError` 401, 403 or 404."""
    key, snapshot = plane.authorize(request), plane.fleet.snapshot
    model = snapshot.resolve(known_name(snapshot, name))
    check_model(key, model)
    if not snapshot.knows(model):
        message = f"The model '{name}' does not exist; GET /api/tags lists those that do."
        raise ApiError(404, "model_not_found", message, param="model")
    return model


async def _wait(plane: DataPlane, request: Request, model: str) -> None:
    """Return when the model is loaded. Raises `ApiError`."""
    try:
        await plane.loader.wait(model)
    except asyncio.CancelledError:
        if request.is_open:  # the client is there: this worker stops
            raise _STOPPING from None
        raise


async def _report(plane: DataPlane, model: str, sink: Sink) -> None:
    loading = asyncio.create_task(plane.loader.wait(model))
    try:
        await sink(_line(status="pulling manifest"))
        while not (await asyncio.wait({loading}, timeout=PROGRESS_S))[0]:
            await sink(_progress(plane, model))
        loading.result()
        await sink(_line(status="success"))
    except ApiError as error:
        await sink(ollama.error_body(error) + b"\n")
    except asyncio.CancelledError:
        if not sink.is_open:
            raise
        await sink(ollama.error_body(_STOPPING) + b"\n")  # the client is there: this worker stops
    finally:
        loading.cancel()


def _progress(plane: DataPlane, model: str) -> bytes:
    status, share = plane.loader.progress(model), plane.loader.share(model)
    if share is None:
        return _line(status=status)
    return _line(status=status, digest=model, completed=round(100 * share), total=100)


def _line(**fields: Any) -> bytes:
    return msgspec.json.encode(fields) + b"\n"
