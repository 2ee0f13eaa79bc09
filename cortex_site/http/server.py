from __future__ import annotations

import asyncio
import socket

import uvicorn

from cortex_site.base.certificate import HTTP1, HTTP2, TlsFiles
from cortex_site.http.bounds import RequestBounds

GOODBYE_S = 2.0  # a client has this long to answer the end of its TLS connection
PLAIN = TlsFiles()


class HttpServer(uvicorn.Server):
    """uvicorn's server on sockets that listen already. It speaks TLS on them if it has a certificate.

    Raises `CertificateError`.
    """

    def __init__(self, config: uvicorn.Config, tls: TlsFiles = PLAIN) -> None:
        super().__init__(config)
        # not `Application`: this is imported before Django's settings are there, which ninja wants
        bounds = getattr(config.app, "bounds", None)
        speaks_http2 = isinstance(bounds, RequestBounds) and bounds.http2 is not None
        self._certificate = tls.certificate((HTTP2, HTTP1) if speaks_http2 else (HTTP1,))
        self._handshake_s = tls.handshake_timeout_s
        self._watching: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._certificate is None:
            await super().startup(sockets)
            return
        await super().startup([])
        loop = asyncio.get_running_loop()
        for sock in sockets or ():
            server = await loop.create_server(
                self._make_protocol,
                sock=sock,
                ssl=self._certificate.context,
                backlog=self.config.backlog,
                ssl_handshake_timeout=self._handshake_s,
                ssl_shutdown_timeout=GOODBYE_S,
            )
            self.servers.append(server)
        self._watching = loop.create_task(self._certificate.watch())

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
