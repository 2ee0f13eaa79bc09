"""HTTP/2 (RFC 9113) as the settings of a server have it."""

from __future__ import annotations

from pydantic import BaseModel, Field, PositiveInt


class Http2Settings(BaseModel):
    """Whether a server speaks HTTP/2, and what one connection of it may cost."""

    http2: bool = Field(
        True, description="Speak HTTP/2, too: by ALPN over TLS, else by upgrade or prior knowledge"
    )
    http2_max_streams: PositiveInt = Field(128, description="Requests under way on one connection")
    http2_max_resets: PositiveInt = Field(
        600, description="Requests that a client may take back on one connection in a minute; more end it"
    )
    http2_max_head_bytes: PositiveInt = Field(
        65_536, description="Of a request's headers, decompressed, with 32 bytes for each"
    )
