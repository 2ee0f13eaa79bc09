from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cortex_site.http.request_parser import RequestParser


class NeuronProtocol(HttpToolsProtocol):
    """uvicorn's protocol, reading the body behind an offered upgrade as a body: uvicorn itself loses it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.parser = RequestParser(self)

    def connection_lost(self, exc: Exception | None) -> None:
        parser = self.parser
        super().connection_lost(exc)
        parser.close()
