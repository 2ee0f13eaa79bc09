# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
"""Who may call: API keys by digest, and protected mode while there is none."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace

from cortex_site.http.locality import Locality
from cortex_site.http.parsed_request import ParsedRequest
from cortex_site.http.request import Request
from fleet.batches import ANONYMOUS, PRIORITY, owner_of_token
from fleet.snapshot import Configuration, KeyView
from neuron.wire import ApiError

NO_KEY = (
    "This gateway has no API key yet and serves only its own machine's user. It refuses this request: {why}. "
    "Make a key in the admin (API keys, Add), or set allow_anonymous = true under [gateway] in cortex.toml."
)

MAX_KNOWN = 1 << 16  # headers that are remembered


class KeyRing:
    """Finds the keys of one worker's requests.

    The headers by which a key was found are remembered, so that their next request needs no digest. A new
    configuration begins anew.
    """

    def __init__(self, locality: Locality, *, allow_anonymous: bool) -> None:
        self._locality = locality
        self._allow_anonymous = allow_anonymous
        self._configuration: Configuration | None = None  # that the rest is of
        self._bearers: dict[bytes, KeyView] = {}  # by the value of `authorization`
        self._others: dict[bytes, KeyView] = {}  # by that of `x-api-key`, where there is no `authorization`

    def authorize(self, request: ParsedRequest | Request, configuration: Configuration) -> KeyView | None:
        """Return what `authorize` does, and raise it."""
        parsed = request.parsed if isinstance(request, Request) else request
        if configuration is not self._configuration:
            self._forget(configuration)
        bearer = parsed.headers.get(b"authorization")
        known = self._bearers if bearer is not None else self._others
        given = bearer if bearer is not None else parsed.headers.get(b"x-api-key")
        key = known.get(given) if given is not None else None
        if key is not None and (key.expires_at is None or key.expires_at > time.time()):
            return key
        key = authorize(request, configuration, self._locality, allow_anonymous=self._allow_anonymous)
        # Not a token that passes for a key, which ends sooner; nor where the other header counted as well.
        is_whole = bearer is None or parsed.bearer is not None
        if is_whole and given is not None and key is not None and configuration.keys.get(key.digest) is key:
            self._remember(known, given, key)
        return key

    def _remember(self, known: dict[bytes, KeyView], given: bytes, key: KeyView) -> None:
        if len(known) >= MAX_KNOWN:
            known.clear()
        known[given] = key

    def _forget(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._bearers, self._others = {}, {}


def authorize(
    request: ParsedRequest | Request,
    configuration: Configuration,
    locality: Locality,
    *,
    allow_anonymous: bool,
) -> KeyView | None:
    """The caller's key; None for an anonymous caller who is allowed. Raises `ApiError` 401 or 403."""
    secret = _secret(request)
    if secret is not None and (owner := owner_of_token(secret)) is not None:
        return _of_a_batch(owner, configuration)
    if secret is not None and (key := configuration.keys.get(hashlib.sha256(secret.encode()).hexdigest())):
        if key.disabled:
            raise ApiError(403, "api_key_disabled", "The API key is disabled. Enable it in the admin.")
        if key.expires_at is not None and key.expires_at <= time.time():
            raise ApiError(401, "invalid_api_key", "The API key has expired. Make a new one in the admin.")
        return key
    if allow_anonymous:
        return None
    if not configuration.has_keys:
        if (why := locality.objection(request)) is None:
            return None
        raise ApiError(401, "invalid_api_key", NO_KEY.format(why=why))
    if secret is None:
        raise ApiError(
            401, "invalid_api_key", "No API key: send it as 'Authorization: Bearer' or 'x-api-key'."
        )
    raise ApiError(401, "invalid_api_key", "The API key is unknown.")


def _of_a_batch(owner: str, configuration: Configuration) -> KeyView | None:
    """The key of a batch's owner, behind all others. Raises `ApiError` 401 where it is gone."""
    key = configuration.keys.get(owner)
    if key is not None and not key.disabled:
        return replace(key, priority=PRIORITY)
    if owner == ANONYMOUS and not configuration.has_keys:
        return None
    raise ApiError(401, "invalid_api_key", "The API key that made the batch is gone.")


def check_model(key: KeyView | None, model: str) -> None:
    """Raises `ApiError` 403 when the key does not allow the model."""
    if key is not None and not key.allows(model):
        raise ApiError(403, "model_not_allowed", f"This API key does not allow '{model}'.", param="model")


def _secret(request: ParsedRequest | Request) -> str | None:
    bearer = request.bearer
    return request.header(b"x-api-key") if bearer is None else bearer
