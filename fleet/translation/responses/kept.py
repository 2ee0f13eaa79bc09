"""What a request has from earlier ones: a response or conversation that it continues, items by their ids,
and texts that the gateway sealed.

All of it is put in place before the request is translated. An item's id tells where it is stored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from fleet.translation.responses.sealed import PREFIX, Sealer
from fleet.translation.responses.wire import KINDS, Kind
from fleet.translation.validation import decode_body, reject

Json = dict[str, Any]

_MARKS = (b'"previous_response_id"', b'"conversation"', b'"item_reference"', PREFIX.encode())
_ITEM_ID = re.compile(r"[a-z]+_(?P<home>(?:conv_)?[0-9a-f]{32})_(?:in)?\d+")
_SUMMARY = "What was said before, in summary:\n\n"


class ConversationId(msgspec.Struct):
    id: str


class Asked(msgspec.Struct):
    """The ids in a request, and its items, which may hold some."""

    previous_response_id: str | None = None
    conversation: str | ConversationId | None = None
    input: str | list[msgspec.Raw] | None = None

    @property
    def conversation_id(self) -> str | None:
        given = self.conversation
        return given.id if isinstance(given, ConversationId) else given

    @property
    def references(self) -> dict[int, str]:
        """The ids of items that stand for themselves, by place."""
        items = self.input if isinstance(self.input, list) else []
        kinds = ((number, _kind(raw)) for number, raw in enumerate(items))
        return {number: kind.id for number, kind in kinds if kind.is_reference and kind.id}

    @property
    def homes(self) -> set[str]:
        """The ids of the responses and conversations that those items were made in."""
        return {home for ident in self.references.values() if (home := _home_of(ident))}


_askeds = msgspec.json.Decoder(Asked)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


def asked_of(body: bytes) -> Asked | None:
    """Return what a request has from earlier ones; None for most. Raises `ApiError` 400."""
    return decode_body(_askeds, body) if any(mark in body for mark in _MARKS) else None


def _home_of(ident: str) -> str | None:
    """Return the id of the response or conversation that an item was made in; None for a foreign id."""
    found = _ITEM_ID.fullmatch(ident)
    if found is None:
        return None
    home = found["home"]
    return home if home.startswith("conv_") else f"resp_{home}"


def find(items: Iterable[msgspec.Raw], ident: str) -> msgspec.Raw | None:
    """Return the item of that id."""
    return next((raw for raw in items if KINDS.decode(raw).id == ident), None)


def put_in_place(body: bytes, asked: Asked, found: Mapping[str, msgspec.Raw], sealer: Sealer) -> bytes:
    """Return the body with the items that it names by their ids, and with what was sealed.

    Raises `ApiError` 400 with the place of what cannot be had.
    """
    if not isinstance(asked.input, list):
        return body
    references = asked.references
    for number, ident in references.items():
        if ident not in found:
            cause = "was not stored, has expired, or was deleted; send the item itself, with `store: false`"
            reject(f"input[{number}].id", f"The item {ident!r} {cause}.")
    items = [
        opened(found[references[number]] if number in references else raw, sealer, f"input[{number}]")
        for number, raw in enumerate(asked.input)
    ]
    return msgspec.json.encode(_fields.decode(body) | {"input": msgspec.Raw(msgspec.json.encode(items))})


def opened(raw: msgspec.Raw, sealer: Sealer, path: str) -> msgspec.Raw:
    """Return an item with its sealed text; a summary becomes the message that it is to the model."""
    if PREFIX.encode() not in bytes(raw):
        return raw
    item: Json = msgspec.json.decode(raw)
    sealed = item.get("encrypted_content")
    if item.get("type") not in {"reasoning", "compaction"} or not str(sealed).startswith(PREFIX):
        return raw
    thought = sealer.open(str(sealed))
    if thought is None:
        cause = "This gateway did not make it for this key, or too long ago; leave the item out."
        reject(f"{path}.encrypted_content", cause)
    if item["type"] == "compaction":
        item = {"type": "message", "role": "user", "content": _SUMMARY + thought.text}
    else:
        content = [{"type": "reasoning_text", "text": thought.text}]
        item |= {"content": content, "encrypted_content": thought.signature}
    return msgspec.Raw(msgspec.json.encode(item))


def _kind(raw: msgspec.Raw) -> Kind:
    try:
        return KINDS.decode(raw)
    except msgspec.ValidationError:  # is refused with its place when items are read
        return Kind()


def all_found(asked: Asked, homes: Mapping[str, Sequence[msgspec.Raw]]) -> dict[str, msgspec.Raw]:
    """Return the referenced items that are in their `homes`, by id."""
    idents = asked.references.values()
    pairs = ((ident, find(homes.get(_home_of(ident) or "", ()), ident)) for ident in idents)
    return {ident: raw for ident, raw in pairs if raw is not None}
