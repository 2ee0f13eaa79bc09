"""What stored responses and conversations share: an owner, pages of items, and a store that may be away."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import msgspec
from django.http import QueryDict

from fleet.batches import ANONYMOUS
from fleet.gateway.control.redis_link import LinkError
from fleet.pages import page_of
from fleet.snapshot import KeyView
from neuron.wire import ApiError

MAX_PAGE = 100  # OpenAI's

T = TypeVar("T")


class Page(msgspec.Struct, frozen=True):
    """Which items of a list are asked for."""

    after: str | None
    limit: int
    newest_first: bool


def owner_of(key: KeyView | None) -> str:
    """The owner of what a key stores. Clients without a key share one; ids cannot be guessed."""
    return ANONYMOUS if key is None else key.digest


def asked_page(given: QueryDict) -> Page:
    """The page that a query asks for. Raises `ApiError` 400."""
    return Page(given.get("after"), asked_limit(given, 20, MAX_PAGE), asked_order(given) == "desc")


def asked_limit(given: QueryDict, default: int, most: int) -> int:
    limit = given.get("limit", str(default))
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= most:
        raise ApiError(400, "invalid_value", f"limit: from 1 to {most}.", param="limit")
    return int(limit)


def asked_order(given: QueryDict) -> str:
    order: str = given.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise ApiError(400, "invalid_value", "order: 'asc' or 'desc'.", param="order")
    return order


def kept_page(items: Sequence[msgspec.Raw], page: Page) -> dict[str, Any]:
    """A page of items as they are stored. Raises `ApiError` 400 where it is to begin after none of them."""
    found: list[dict[str, Any]] = [msgspec.json.decode(item) for item in items]
    if page.newest_first:
        found.reverse()
    return page_of(found, page.after, page.limit)


async def ask(answer: Awaitable[T]) -> T:
    """What the store answers. Raises `ApiError` 503 while it is away."""
    try:
        return await answer
    except LinkError as error:
        message = f"Stored responses cannot be reached: {error}. Requests that need none are served."
        raise ApiError(503, "response_store_away", message, retry_after_s=3) from error
