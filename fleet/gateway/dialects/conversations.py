"""Conversations that are kept for clients: `/v1/conversations`, as OpenAI documents it.

One is stored as lines of JSON: what it is, then its items, oldest first. An answer adds to it unread.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import msgspec

from fleet.gateway.dialects.kept_items import Page, ask, kept_page, owner_of
from fleet.gateway.dialects.response_store import ResponseStore
from fleet.pages import page_of
from fleet.snapshot import KeyView
from fleet.translation.responses import kept, stored
from fleet.translation.responses.conversation import read_item
from fleet.translation.responses.wire import ItemReference
from fleet.translation.validation import decode_body, reject
from neuron.wire import ApiError

Json = dict[str, Any]

MAX_ITEMS = 20  # OpenAI's, of one request
_ATTEMPTS = 8  # to change what others change at the same time

_Name = Annotated[str, msgspec.Meta(max_length=64)]
_Value = Annotated[str, msgspec.Meta(max_length=512)]
Metadata = Annotated[dict[_Name, _Value], msgspec.Meta(max_length=16)]


class _New(msgspec.Struct):
    items: list[msgspec.Raw] | None = None
    metadata: Metadata | None = None


class _Items(msgspec.Struct):
    items: Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1)]


class _Update(msgspec.Struct):
    metadata: Metadata


_news = msgspec.json.Decoder(_New)
_updates = msgspec.json.Decoder(_Update)
_additions = msgspec.json.Decoder(_Items)


class Conversations:
    """The conversations of all keys; each key sees its own."""

    def __init__(self, store: ResponseStore) -> None:
        self._store = store

    async def create(self, key: KeyView | None, body: bytes) -> Json:
        given = decode_body(_news, body)
        ident = f"conv_{os.urandom(16).hex()}"
        about = {
            "id": ident,
            "object": "conversation",
            "created_at": int(time.time()),
            "metadata": given.metadata or {},
        }
        await ask(self._store.put(owner_of(key), ident, _lines([about, *_read(given.items or (), ident)])))
        return about

    async def retrieve(self, key: KeyView | None, ident: str) -> msgspec.Raw:
        return (await self._lines(owner_of(key), ident))[0]

    async def update(self, key: KeyView | None, ident: str, body: bytes) -> msgspec.Raw:
        metadata = decode_body(_updates, body).metadata

        def change(lines: list[msgspec.Raw]) -> list[Any]:
            about: Json = msgspec.json.decode(lines[0])
            return [about | {"metadata": metadata}, *lines[1:]]

        return (await self._change(owner_of(key), ident, change))[0]

    async def delete(self, key: KeyView | None, ident: str) -> Json:
        if not await ask(self._store.delete(owner_of(key), ident)):
            raise _unknown(ident)
        return {"id": ident, "object": "conversation.deleted", "deleted": True}

    async def items(self, owner: str, ident: str) -> list[msgspec.Raw]:
        """Return what has been said in it. Raises `ApiError` 404."""
        return (await self._lines(owner, ident))[1:]

    async def list_items(self, key: KeyView | None, ident: str, page: Page) -> Json:
        return kept_page(await self.items(owner_of(key), ident), page)

    async def add_items(self, key: KeyView | None, ident: str, body: bytes) -> Json:
        added = _read(decode_body(_additions, body).items, ident)
        await self._change(owner_of(key), ident, lambda lines: [*lines, *added])
        return page_of(added, None, len(added))

    async def retrieve_item(self, key: KeyView | None, ident: str, item: str) -> msgspec.Raw:
        found = kept.find(await self.items(owner_of(key), ident), item)
        if found is None:
            raise _no_item(item)
        return found

    async def delete_item(self, key: KeyView | None, ident: str, item: str) -> msgspec.Raw:
        def change(lines: list[msgspec.Raw]) -> list[Any]:
            found = kept.find(lines[1:], item)
            if found is None:
                raise _no_item(item)
            return [line for line in lines if line is not found]

        return (await self._change(owner_of(key), ident, change))[0]

    def add(self, owner: str, ident: str, items: Iterable[Json | msgspec.Raw]) -> None:
        """Add what an answer and its request said. Never waits and never raises."""
        self._store.add(owner, ident, _lines(items))

    async def _change(
        self, owner: str, ident: str, change: Callable[[list[msgspec.Raw]], list[Any]]
    ) -> list[msgspec.Raw]:
        for _ in range(_ATTEMPTS):
            old = await self._data(owner, ident)
            new = _lines(change(_split(old)))
            if await ask(self._store.swap(owner, ident, old, new)):
                return _split(new)
        message = f"The conversation {ident!r} is being changed by others; try again."
        raise ApiError(409, "conversation_changed", message, retry_after_s=1)

    async def _lines(self, owner: str, ident: str) -> list[msgspec.Raw]:
        return _split(await self._data(owner, ident))

    async def _data(self, owner: str, ident: str) -> bytes:
        data = await ask(self._store.get(owner, ident)) if ident.startswith("conv_") else None
        if data is None:
            raise _unknown(ident)
        return data


def _read(items: Sequence[msgspec.Raw], ident: str) -> list[Json]:
    """Return items as they are listed. Raises `ApiError` 400 with the place of one that is none."""
    if len(items) > MAX_ITEMS:
        reject("items", f"At most {MAX_ITEMS} items go into one request; these are {len(items)}.")
    for number, raw in enumerate(items):
        if isinstance(read_item(raw, f"items[{number}]"), ItemReference):
            reject(f"items[{number}].type", "An item itself is kept, not a reference to one.")
    numbers = (random.randrange(10**15) for _ in items)  # noqa: S311 - an id within its conversation
    return [stored.listed(raw, f"{ident}_{number}") for raw, number in zip(items, numbers, strict=True)]


def _lines(items: Iterable[Any]) -> bytes:
    return b"".join(msgspec.json.encode(item) + b"\n" for item in items)


def _split(data: bytes) -> list[msgspec.Raw]:
    return [msgspec.Raw(line) for line in data.splitlines()]


def _unknown(ident: str) -> ApiError:
    message = f"There is no conversation {ident!r}: it has expired, or was deleted."
    return ApiError(404, "conversation_not_found", message)


def _no_item(ident: str) -> ApiError:
    return ApiError(404, "item_not_found", f"The conversation has no item {ident!r}.")
