"""What a batch is: its states, and the token by which its requests pass for those of its owner."""

from __future__ import annotations

from enum import StrEnum

from django.core.signing import BadSignature, TimestampSigner

ENDPOINTS = ("/v1/chat/completions", "/v1/responses", "/v1/completions", "/v1/embeddings")
ANONYMOUS = "anonymous"  # the owner of what clients without a key store
PRIORITY = -100  # below what a key can have

_PREFIX = "cortex-batch."
_VALID_S = 600


class BatchStatus(StrEnum):
    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


ACTIVE = (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING, BatchStatus.CANCELLING)


def token_of(owner: str) -> str:
    """A secret for the next minutes, by which a worker sends requests for `owner`."""
    return f"{_PREFIX}{_signer().sign(owner)}"


def owner_of_token(secret: str) -> str | None:
    """The owner that a token stands for; None for any other secret, and for a token that is too old."""
    if not secret.startswith(_PREFIX):
        return None
    try:
        return str(_signer().unsign(secret.removeprefix(_PREFIX), max_age=_VALID_S))
    except BadSignature:
        return None


def _signer() -> TimestampSigner:
    return TimestampSigner(salt="cortex.batch")
