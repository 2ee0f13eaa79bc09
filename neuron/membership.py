"""The membership of this node in a fleet: it joins with a token, then sends a heartbeat every few seconds."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx
from pydantic import ValidationError

from cortex_site.base.addresses import http_url, is_loopback, is_unspecified
from cortex_site.base.version import VERSION
from neuron.wire import JoinAnswer, JoinRequest

log = logging.getLogger("neuron.join")

TIMEOUT_S = 10.0
RETRY_S = 5.0  # until cortex has said how often


class JoinRefusedError(Exception):
    """cortex refuses this node; the message says why and what to do."""


class Membership:
    """The membership in the fleet of the control plane at `url`. `secret` is the token of the node's API.

    Raises `JoinRefusedError` for a name, endpoint or secret that no fleet accepts.
    """

    def __init__(
        self, url: str, token: str, *, name: str, endpoint: str, secret: str, labels: Sequence[str] = ()
    ) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._secret = secret
        try:
            self._wish = JoinRequest(
                name=name, endpoint=endpoint, token=secret, version=VERSION, labels=list(labels)
            )
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            raise JoinRefusedError(f"{first['loc'][0]}: {first['msg']}") from error
        self._joined = False
        self._away = False
        self._pause_s = RETRY_S

    async def try_once(self) -> None:
        """Join now, or in `run` if cortex does not answer. Raises `JoinRefusedError`."""
        async with self._client() as http:
            try:
                await self._join(http)
            except httpx.HTTPError as error:
                self._note_silence(error)

    async def run(self) -> None:
        """Send heartbeats until cancelled, and join again when cortex has forgotten this node."""
        async with self._client() as http:
            while True:
                await asyncio.sleep(self._pause_s)
                try:
                    if self._joined:
                        await self._beat(http)
                    else:
                        await self._join(http)
                except httpx.HTTPError as error:
                    self._note_silence(error)
                except JoinRefusedError as error:
                    log.error("cortex refuses this node", extra={"reason": str(error)})  # noqa: TRY400
                else:
                    self._away = False

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self._url, timeout=TIMEOUT_S, trust_env=False)

    async def _join(self, http: httpx.AsyncClient) -> None:
        answer = await self._post(http, "/api/join", self._wish.model_dump(), self._token)
        if answer.status_code != 200:
            raise JoinRefusedError(self._reason(answer))
        try:
            accepted = JoinAnswer.model_validate_json(answer.content)
        except ValidationError as error:
            raise JoinRefusedError(f"{self._url} is not a cortex: {answer.text[:100]!r}") from error
        self._joined = True
        self._pause_s = accepted.heartbeat_s
        log.info("joined", extra={"cortex": self._url, "node": accepted.name})

    async def _beat(self, http: httpx.AsyncClient) -> None:
        answer = await self._post(http, "/api/join/heartbeat", {"name": self._wish.name}, self._secret)
        if answer.status_code == 404:
            self._joined = False
            await self._join(http)
        elif answer.is_error:
            raise JoinRefusedError(self._reason(answer))

    async def _post(self, http: httpx.AsyncClient, path: str, body: Any, bearer: str) -> httpx.Response:
        """The answer to a POST. Raises `HTTPError` when there is none or a 5xx, where a retry may help."""
        answer = await http.post(path, json=body, headers={"authorization": f"Bearer {bearer}"})
        if answer.is_server_error:
            answer.raise_for_status()
        return answer

    def _reason(self, answer: httpx.Response) -> str:
        try:
            error = answer.json()["error"]
            code = str(error["code"])
            message = str(error["message"])
        except (ValueError, KeyError, TypeError):
            code = ""
            message = answer.text[:100]
        if answer.status_code == 400 and not code:
            host = urlsplit(self._url).hostname
            return f"add {host!r} to [admin] allowed_hosts in cortex.toml: it does not go by that name"
        if answer.status_code in {404, 405}:
            return f"nothing to join at {self._url}: give the address of cortex's admin (port 31315)"
        return message

    def _note_silence(self, error: httpx.HTTPError) -> None:
        if not self._away:
            log.warning("cortex does not answer", extra={"cortex": self._url, "error": str(error)})
        self._away = True


def endpoint_for(url: str, host: str, port: int, *, tls: bool = False) -> str:
    """Where the control plane at `url` can reach what listens on `host` and `port`.

    For a server on every interface, it is the address that this machine has towards `url`. Raises
    `JoinRefusedError`.
    """
    there = urlsplit(url)
    if not there.hostname or there.scheme not in {"http", "https"}:
        raise JoinRefusedError(f"--join {url}: expected a URL such as http://cortex.internal:31315")
    if is_unspecified(host):
        host = _own_address(there.hostname, there.port or 80)
    if is_loopback(host) and not is_loopback(there.hostname):
        message = f"listens on {host} only, where {there.hostname} cannot reach it"
        raise JoinRefusedError(f"{message}: --listen 0.0.0.0:{port}, or set public_url")
    return http_url(host, port, tls=tls)


def _own_address(host: str, port: int) -> str:
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)  # sends nothing
            return str(probe.getsockname()[0])
    except OSError as error:
        raise JoinRefusedError(
            f"cannot reach {host}: {error.strerror or error}; or set public_url"
        ) from error
