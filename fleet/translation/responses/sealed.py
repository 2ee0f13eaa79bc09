"""What a client keeps for the gateway and cannot read: its model's thoughts, and summaries of conversations.

A sealed text is a Fernet token (AES-128-CBC and HMAC-SHA256). Each owner has a key of his own for each month,
derived from the site's secrets by HKDF (RFC 5869), so keys are rotated without being stored.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Sequence
from functools import lru_cache

import msgspec
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

PREFIX = "cortex1."
PERIOD_S = 30 * 86_400
PERIODS = 4  # the present one, and those before it whose texts can still be read


class Thought(msgspec.Struct, omit_defaults=True):
    """A text, and what its upstream signed it with."""

    text: str
    signature: str | None = None


_thoughts = msgspec.json.Decoder(Thought)


class Sealer:
    """Seals and opens the texts of one owner. The first of `secrets` seals; all of them open."""

    def __init__(self, secrets: Sequence[str], owner: str, now: Callable[[], float] = time.time) -> None:
        self._secrets = tuple(secrets)
        self._owner = owner
        self._now = now

    def seal(self, text: str, signature: str | None = None) -> str:
        token = self._keys.encrypt(msgspec.json.encode(Thought(text, signature)))
        return PREFIX + token.decode()

    def open(self, sealed: str) -> Thought | None:
        """Return what was sealed; None for another owner's text, a changed one, or one that is too old."""
        try:
            return _thoughts.decode(self._keys.decrypt(sealed.removeprefix(PREFIX)))
        except InvalidToken:
            return None

    @property
    def _keys(self) -> MultiFernet:
        period = int(self._now() // PERIOD_S)
        return _keys(self._secrets, self._owner, period)


@lru_cache(maxsize=1024)
def _keys(secrets: tuple[str, ...], owner: str, period: int) -> MultiFernet:
    periods = range(period, period - PERIODS, -1)
    return MultiFernet([_key(secret, owner, number) for number in periods for secret in secrets])


def _key(secret: str, owner: str, period: int) -> Fernet:
    info = f"cortex sealed text {period} {owner}".encode()
    derived = HKDF(SHA256(), length=32, salt=None, info=info).derive(secret.encode())
    return Fernet(base64.urlsafe_b64encode(derived))
