from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import uvicorn

from cortex_site.base.certificate import HTTP1, HTTP2, TlsFiles
from cortex_site.base.sharing import Share
from cortex_site.http.acceptor import Acceptor, Connections
from cortex_site.http.bounds import RequestBounds

GOODBYE_S = 2.0  # a client has this long to answer the end of its TLS connection
PLAIN = TlsFiles()


class HttpServer(uvicorn.Server):
    """uvicorn's server on sockets that listen already. It speaks TLS on them if it has a certificate, and
    takes its share of their connections if there are other workers.

    Raises `CertificateError`.
    """

    def __init__(self, config: uvicorn.Config, tls: TlsFiles = PLAIN, share: Share | None = None) -> None:
        super().__init__(config)
        self.server_state.connections = self._connections = Connections()
        self._share = share
        # not `Application`: this is imported before Django's settings are there, which ninja wants
        bounds = getattr(config.app, "bounds", None)
        speaks_http2 = isinstance(bounds, RequestBounds) and bounds.http2 is not None
        self._certificate = tls.certificate((HTTP2, HTTP1) if speaks_http2 else (HTTP1,))
        self._handshake_s = tls.handshake_timeout_s
        self._watching: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._certificate is None and self._share is None:
            await super().startup(sockets)
            return
        await super().startup([])
        tls = self._tls_options()
        if self._share is not None:
            acceptor = Acceptor(sockets or (), self._make_protocol, self._share, self._connections, **tls)
            self.servers.append(acceptor)  # type: ignore[arg-type]  # uvicorn closes it, and no more
        else:
            await self._listen(sockets or (), tls)
        if self._certificate is not None:
            self._watching = asyncio.create_task(self._certificate.watch())

    def _tls_options(self) -> dict[str, Any]:
        if self._certificate is None:
            return {}
        return {
            "ssl": self._certificate.context,
            "ssl_handshake_timeout": self._handshake_s,
            "ssl_shutdown_timeout": GOODBYE_S,
        }

    async def _listen(self, sockets: Sequence[socket.socket], tls: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        for sock in sockets:
            server = await loop.create_server(
                self._make_protocol, sock=sock, backlog=self.config.backlog, **tls
            )
            self.servers.append(server)

    def _make_protocol(self) -> asyncio.Protocol:
        protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.stop_watching()
        await super().shutdown(sockets)

    def stop_watching(self) -> None:
        """Let the certificate be; connections that are still to come get the one that is there."""
        if self._watching is not None:
            self._watching.cancel()
