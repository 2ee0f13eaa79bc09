from __future__ import annotations

from typing import Literal

Failure = Literal["connect", "timeout", "closed", "protocol", "busy"]


class UpstreamError(Exception):
    """A node did not answer properly. `kind` says what a caller can do about it:

    connect   nothing was sent; another node may be tried
    busy      nothing was sent; every connection to this node stayed in use
    timeout   the node did not answer in time
    closed    the connection ended within the answer, or before it
    protocol  what came is not HTTP
    """

    def __init__(self, kind: Failure, message: str) -> None:
        super().__init__(message)
        self.kind = kind
