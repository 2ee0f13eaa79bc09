"""The endpoints on stored responses, finished ones and those that are made in the background."""

from __future__ import annotations

from typing import Any

import msgspec

from fleet.gateway.dialects.kept_items import Page, ask, kept_page, owner_of
from fleet.gateway.dialects.response_store import ResponseStore
from fleet.gateway.dialects.responses import NOT_FOUND
from fleet.snapshot import KeyView
from fleet.translation.responses import stored
from neuron.wire import ApiError


class _State(msgspec.Struct):
    status: str
    background: bool = False

    @property
    def is_begun(self) -> bool:
        return self.background and self.status in {"queued", "in_progress"}


_states = msgspec.json.Decoder(_State)


async def retrieve(store: ResponseStore, key: KeyView | None, ident: str) -> bytes:
    """A response as it stands; one whose gateway has ended has failed. Raises `ApiError`."""
    found = await _found(store, key, ident)
    if not _states.decode(found.response).is_begun or await ask(store.is_alive(ident)):
        return bytes(found.response)
    error = {"code": "server_error", "message": "The gateway that made it has ended; ask again."}
    return ended(found.response, "failed", error)


async def delete(store: ResponseStore, key: KeyView | None, ident: str) -> dict[str, Any]:
    if not await ask(store.delete(owner_of(key), ident)):
        raise _unknown(ident)
    return {"id": ident, "object": "response", "deleted": True}


async def cancel(store: ResponseStore, key: KeyView | None, ident: str) -> bytes:
    """A response in the background, cancelled unless it has ended. Raises `ApiError`."""
    owner = owner_of(key)
    data = await ask(store.get(owner, ident))
    if data is None:
        raise _unknown(ident)
    found = stored.decode(data)
    state = _states.decode(found.response)
    if not state.background:
        message = "Only a response in the background can be cancelled; to end a stream, close its connection."
        raise ApiError(400, "not_in_background", message)
    if state.is_begun:
        cancelled = ended(found.response, "cancelled")
        await ask(store.swap(owner, ident, data, stored.with_response(found, cancelled)))
    return bytes((await _found(store, key, ident)).response)


async def input_items(store: ResponseStore, key: KeyView | None, ident: str, page: Page) -> dict[str, Any]:
    """A page of the input items of a response. Raises `ApiError`."""
    return kept_page((await _found(store, key, ident)).input, page)


def ended(response: msgspec.Raw, status: str, error: dict[str, Any] | None = None) -> bytes:
    """A response that was begun, with how it ended."""
    fields: dict[str, Any] = msgspec.json.decode(response)
    return msgspec.json.encode(fields | {"status": status, "error": error})


async def _found(store: ResponseStore, key: KeyView | None, ident: str) -> stored.Stored:
    data = await ask(store.get(owner_of(key), ident)) if ident.startswith("resp_") else None
    if data is None:
        raise _unknown(ident)
    return stored.decode(data)


def _unknown(ident: str) -> ApiError:
    return ApiError(404, "response_not_found", NOT_FOUND.format(ident))
