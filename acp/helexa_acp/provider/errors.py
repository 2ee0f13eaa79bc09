"""What can go wrong between a request and its last event: a class per thing that a caller can do about it.

    UnreachableError     no connection, a time-out, a broken stream   try again, then elsewhere
    OverloadedError      429, 5xx                                     the same, after `retry_after_s`
    AuthFailedError      401, 403                                     ask for credentials
    ContextTooLongError  the prompt does not fit                      make it shorter, send it again
    RejectedError        any other answer that is no completion       show it

Messages carry the endpoint and the server's own words, never the prompt or a key.
"""

from __future__ import annotations

from typing import Any


class ProviderError(Exception):
    retryable = False
    """May the same request succeed elsewhere or later?"""

    def __init__(self, message: str, *, endpoint: str, model: str = "", status: int | None = None) -> None:
        super().__init__(message)
        self.endpoint, self.model, self.status = endpoint, model, status

    @property
    def data(self) -> dict[str, Any]:
        return {
            "endpoint": self.endpoint,
            "model": self.model,
            "status": self.status,
            "retryable": self.retryable,
        }


class UnreachableError(ProviderError):
    retryable = True


class OverloadedError(ProviderError):
    retryable = True
    retry_after_s: float | None = None


class AuthFailedError(ProviderError):
    pass


class ContextTooLongError(ProviderError):
    pass


class RejectedError(ProviderError):
    pass
