"""Pages of lists, as OpenAI's API has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neuron.wire import ApiError

Json = dict[str, Any]


def page_of(items: Sequence[Json], after: str | None, limit: int) -> Json:
    """A page of at most `limit` items, from the one behind the id `after` on.

    Raises `ApiError` 400 where no item has that id.
    """
    ids = [item["id"] for item in items]
    if after is not None and after not in ids:
        raise ApiError(400, "invalid_value", f"after: {after!r} is none of the items.", param="after")
    start = 0 if after is None else ids.index(after) + 1
    shown = items[start : start + limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": start + limit < len(items),
    }
