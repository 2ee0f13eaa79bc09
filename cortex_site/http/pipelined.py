from __future__ import annotations

from cortex_site.http.parsed_request import ParsedRequest

MAX_AHEAD, MAX_AHEAD_BYTES = 16, 1 << 18  # pipelined requests that may wait; with more, reading stops


class Pipelined(list[ParsedRequest]):
    """Requests of a connection that wait for the answers to those before them."""

    @property
    def are_far_ahead(self) -> bool:
        """Reading goes on until then, because only reading shows that the client has left."""
        return len(self) >= MAX_AHEAD or sum(len(item.body) for item in self) > MAX_AHEAD_BYTES
