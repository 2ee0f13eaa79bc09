# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
"""Adapting requests to a node: a neuron gets them unchanged, another server under its own names.

Neither gets a header of the client. The headers that tell a neuron whose request it is stay in the fleet.
What a neuron notes about an answer, in headers of its own, reaches the client.
"""

from __future__ import annotations

import re

import msgspec

from cortex_site.base.excerpt import as_note
from fleet.gateway.dialects.chat_body import with_model
from fleet.snapshot import NodeConfig
from neuron.wire import ApiError

INTERNAL = "x-cortex-"  # headers between gateway and neurons
USAGE = "stream_options"
MAX_NOTES = 8
_PREFIX = INTERNAL.encode()
_NOTE = re.compile(rb"x-cortex-([a-z][a-z0-9-]{0,40})")
# the gateway's own names for what it says to clients and neurons
_OWN = frozenset({"node", "queue-ms", "retries", "overhead-us", "expected-wait-s", "principal", "priority"})

Note = tuple[str, str]  # the header's name without `INTERNAL`, and its value


class RequestAdapter:
    """One node's adapter; it remembers which fields the server refuses."""

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        self._is_foreign = config.is_foreign
        self._without_usage = False

    def path(self, path: str) -> str:
        return self._config.path(path) if self._is_foreign else path

    def lines(self, lines: bytes, caller: bytes) -> bytes:
        """The header lines to send, of which `caller` says whose request it is."""
        return lines if self._is_foreign else lines + caller

    def notes(self, headers: dict[bytes, bytes]) -> tuple[Note, ...]:
        """What a neuron's answer says about how the request was taken; nothing of another server's.

        At most `MAX_NOTES` of at most `MAX_NOTE_CHARS` printable characters each.
        """
        found: list[Note] = []
        if self._is_foreign:
            return ()
        for name, value in headers.items():
            if name.startswith(_PREFIX):
                _take_note(found, name, value)
        return tuple(found[:MAX_NOTES])

    def body(self, model: str, body: bytes) -> bytes:
        """The body to send for a (resolved) model."""
        if not self._is_foreign:
            return body
        name = self._config.models.get(model, model)
        named = body if name == model else with_model(body, name)
        return _without(named, USAGE) if self._without_usage else named

    def learn(self, refusal: ApiError, sent: bytes) -> bool:
        """Whether to send the request again without what was refused: some know no `stream_options`."""
        asked = self._config.is_foreign and f'"{USAGE}"'.encode() in sent
        if not asked or refusal.status not in {400, 422}:
            return False
        if USAGE not in (refusal.param or "") and USAGE not in refusal.message:
            return False
        self._without_usage = True
        return True


def _take_note(found: list[Note], name: bytes, value: bytes) -> None:
    match = _NOTE.fullmatch(name)
    if match and (note := match[1].decode()) not in _OWN:
        found.append((note, as_note(value.decode("latin-1"))))


def _without(body: bytes, field: str) -> bytes:
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    fields.pop(field, None)
    return msgspec.json.encode(fields)
