"""What can go wrong between the gateway and a node. No other exception leaves this package.

UpstreamError
└── UnansweredError   the connection was closed before a byte of the answer came
"""

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


class UnansweredError(UpstreamError):
    """Nearly always the node has not read the request: a kept connection was closed as it was sent."""

    def __init__(self, message: str) -> None:
        super().__init__("closed", message)
