"""API keys of the playground: one for each signed-in session, that ends with it.

The key is derived from the session and Django's secret, so it is stored nowhere; its row has the digest, as
any key's. Such rows do not end protected mode: that no key was made yet stays true.
"""

from __future__ import annotations

from django.contrib.sessions.backends.base import SessionBase
from django.utils import timezone
from django.utils.crypto import salted_hmac

from fleet.models import ApiKey
from fleet.services.keys import PREFIX, SHOWN, digest

SALT = "cortex.playground"


def obtain(user: str, session: SessionBase) -> tuple[str, bool]:
    """Return the session's key, and whether its row was made now: gateways know it within seconds."""
    key = _key(session)
    expires_at = session.get_expiry_date()
    facts = {"prefix": key[:SHOWN], "expires_at": expires_at, "of_session": True}
    ident = digest(key)
    name = f"playground of {user}"[:80] + f" {ident[:8]}"
    _, is_new = ApiKey.objects.get_or_create(digest=ident, defaults={"name": name} | facts)
    return key, is_new


def end(session: SessionBase) -> None:
    """Delete the session's key, if it has one."""
    for row in ApiKey.objects.filter(digest=digest(_key(session)), of_session=True):
        row.delete()  # one by one: the signal tells the gateways


def prune() -> int:
    """Delete those whose sessions have expired, and return how many."""
    old = ApiKey.objects.filter(of_session=True, expires_at__lt=timezone.now())
    for row in old:
        row.delete()
    return len(old)


def _key(session: SessionBase) -> str:
    if session.session_key is None:
        session.create()
    code: str = salted_hmac(SALT, session.session_key, algorithm="sha256").hexdigest()
    return PREFIX + code
