"""How an operation can end other than with success.

OutcomeError
 ├─ OperationError     failed for good; the row keeps code and message
 ├─ PostponedError     impossible now, tried again after `delay_s`
 └─ NotNeededError     pointless by now: the operation is cancelled
"""

from __future__ import annotations


class OutcomeError(Exception):
    pass


class OperationError(OutcomeError):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class PostponedError(OutcomeError):
    def __init__(self, message: str, *, delay_s: float) -> None:
        super().__init__(message)
        self.delay_s = delay_s


class NotNeededError(OutcomeError):
    pass
