"""Which node has seen the beginning of a prompt: this worker's own bounded record of what it sent where.

A conversation's next turn begins with all of the last one, and a node keeps the prefix in its KV cache. The
record maps digests of ever longer beginnings of a body to the node that got it last. It is a hint: the router
weighs it against load (`router.LOAD_FACTOR`), so that a popular prefix overloads no node. Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from fleet.snapshot import Replicas

BLOCK_BYTES = 1 << 10
MAX_BLOCKS = 64
BYTES_PER_TOKEN = 4  # of a request's body, by the usual rule of thumb
MAX_ENTRIES = 1 << 16  # about 10 MB
MAX_PUBLISHERS = 32


def digests(model: str, body: bytes) -> list[int]:
    """One digest per whole block of the prompt, of everything up to its end. Valid in this process only."""
    at = max(body.find(b'"messages"'), 0)
    chain = hash(model)
    found = []
    for start in range(at, min(len(body), at + MAX_BLOCKS * BLOCK_BYTES) - BLOCK_BYTES + 1, BLOCK_BYTES):
        chain = hash((chain, body[start : start + BLOCK_BYTES]))
        found.append(chain)
    return found


def published(marks: Sequence[tuple[int, int]], replicas: Replicas) -> dict[str, int]:
    """Tokens of prefill saved, by node, as nodes that publish digests say themselves.

    `marks` are a body's (`neuron.wire.prefix_marks`): a node has the longest one that it publishes. Empty for
    more than `MAX_PUBLISHERS` replicas, where looking through all would cost more than it saves.
    """
    if len(replicas) > MAX_PUBLISHERS:
        return {}
    return {
        node.name: next((n for digest, n in reversed(marks) if digest in view.prefixes), 0) // BYTES_PER_TOKEN
        for node, view in replicas
        if view.prefixes
    }


class Affinity:
    """The record. It forgets the least recently used beginnings first."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._max_entries = max_entries
        self._nodes: OrderedDict[int, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._nodes)

    def note(self, prefix: Sequence[int], node: str) -> None:
        """Record that a prompt with these digests went to `node`."""
        for digest in prefix:
            self._nodes[digest] = node
            self._nodes.move_to_end(digest)
        while len(self._nodes) > self._max_entries:
            self._nodes.popitem(last=False)

    def saved(self, prefix: Sequence[int]) -> dict[str, int]:
        """Tokens of prefill saved, by node: the longest beginning that the node was the last to get."""
        found: dict[str, int] = {}
        for length in range(len(prefix), 0, -1):
            node = self._nodes.get(prefix[length - 1])
            if node is not None and node not in found:
                found[node] = length * BLOCK_BYTES // BYTES_PER_TOKEN
                if len(found) == 2:
                    break
        return found
