"""TLS: the certificate of a server, read again when its files change, and what clients verify it with."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Self

from pydantic import BaseModel, Field, PositiveFloat, model_validator

log = logging.getLogger("cortex.tls")

HTTP1, HTTP2 = "http/1.1", "h2"  # as ALPN names them
CHECK_S = 2.0  # between two looks at the files

_Seen = tuple[tuple[int, ...] | None, ...]


class CertificateError(Exception):
    """A certificate and a key with which no server can speak TLS; the text has file, reason and cure."""


class TlsFiles(BaseModel):
    """The settings of a server that may speak TLS; without them it speaks plain HTTP."""

    tls_cert: Path | None = Field(
        None, description="PEM file of the certificate and what is between it and its authority"
    )
    tls_key: Path | None = Field(None, description="PEM file of its key, without a passphrase")
    handshake_timeout_s: PositiveFloat = Field(10.0, description="For a client's TLS handshake")

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            missing, there = ("tls_key", "tls_cert") if self.tls_cert else ("tls_cert", "tls_key")
            raise ValueError(f"{missing} is missing: {there} alone makes no TLS; give both or neither")
        return self

    @property
    def speaks_tls(self) -> bool:
        return self.tls_cert is not None

    def certificate(self, protocols: Sequence[str] = (HTTP1,)) -> Certificate | None:
        """Return the configured certificate, for `protocols` by preference; None for plain HTTP.

        Raises `CertificateError`.
        """
        if self.tls_cert is None or self.tls_key is None:
            return None
        return Certificate(self.tls_cert, self.tls_key, protocols)

    def tls_objection(self) -> str | None:
        """Return why the files cannot be used as they are now, or None."""
        try:
            self.certificate()
        except CertificateError as error:
            return str(error)
        return None


class Certificate:
    """A certificate and its key. Raises `CertificateError` if the files cannot be used.

    A server listens with `context` for as long as it lives: each handshake gets the pair that was read last.
    """

    def __init__(self, cert: Path, key: Path, protocols: Sequence[str] = (HTTP1,)) -> None:
        self._files = cert, key
        self._protocols = protocols
        self._seen = self._look()
        self.context = self._current = server_context(cert, key, protocols)
        self.context.sni_callback = self._hand_over  # called without a name, too

    def _hand_over(self, handshake: ssl.SSLObject, _name: str | None, _listening: ssl.SSLContext) -> None:
        handshake.context = self._current

    def refresh(self) -> None:
        """Read the files if they have changed. Those that cannot be used leave the old pair in use."""
        seen = self._look()
        if seen == self._seen:
            return
        self._seen = seen  # it changes again when it is mended
        try:
            self._current = server_context(*self._files, self._protocols)
        except CertificateError as error:
            log.warning(
                "the changed certificate cannot be used; the old one stays",
                extra={"reason": str(error)},
            )
        else:
            log.info("the changed certificate is in use", extra={"tls_cert": str(self._files[0])})

    def _look(self) -> _Seen:
        return tuple(_look(path) for path in self._files)

    async def watch(self) -> None:
        """Refresh it until cancelled."""
        while True:
            await asyncio.sleep(CHECK_S)
            await asyncio.to_thread(self.refresh)


def _look(path: Path) -> tuple[int, ...] | None:
    """Return what changes whenever a file is written, replaced or made readable; None without one."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def valid_until(cert: Path) -> datetime | None:
    """Return when the first certificate of a PEM file expires; None where it cannot be read."""
    from cryptography import x509  # noqa: PLC0415 - an extra of the gateway: a neuron may lack it

    try:
        return x509.load_pem_x509_certificate(cert.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return None


def server_context(cert: Path, key: Path, protocols: Sequence[str] = (HTTP1,)) -> ssl.SSLContext:
    """Return what a server speaks TLS 1.2 and 1.3 with. Raises `CertificateError`."""
    for path, what, cure in ((cert, "CERTIFICATE", "tls_cert"), (key, "PRIVATE KEY", "tls_key")):
        if f"{what}-----" not in _text(path):
            raise CertificateError(f"{path}: has no {what.lower()} in PEM; {cure} names a file that has one")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(list(protocols))

    def no_passphrase() -> str:
        raise CertificateError(f"{key}: has a passphrase; `openssl pkey -in {key} -out FILE` takes it off")

    try:
        context.load_cert_chain(cert, key, no_passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CertificateError(f"{key}: is not the key of the first certificate in {cert}") from error
        raise CertificateError(f"{cert} and {key}: cannot be used: {error}") from error
    except OSError as error:
        raise CertificateError(f"{cert} and {key}: cannot be read: {error.strerror}") from error
    return context


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii", errors="replace")
    except OSError as error:
        raise CertificateError(f"{path}: cannot be read: {error.strerror}") from error


@lru_cache(maxsize=8)
def trusting(ca: Path | None) -> ssl.SSLContext:
    """Return what a client verifies servers with: the system's authorities, and those in the file `ca`.

    It is made once, because reading them takes 20 ms. Raises `CertificateError` for a file without any.
    """
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except ssl.SSLError as error:
            raise CertificateError(f"{ca}: has no certificate in PEM") from error
        except OSError as error:
            raise CertificateError(f"{ca}: cannot be read: {error.strerror}") from error
    return context


@lru_cache(maxsize=1)
def unverified() -> ssl.SSLContext:
    """Return what this machine reaches its own servers with, at an address that no certificate has."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
