"""How carrying out an operation can end other than well.

OutcomeError
 ├─ OperationError     failed, for good: code and message are kept
 ├─ PostponedError     cannot be done now: tried again after a while
 └─ NotNeededError     need not be done any more
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
