"""Reading a node's refusal from its answer."""

from __future__ import annotations

from fleet.foreign.errors import MAX_ERROR_BYTES, read_error
from fleet.gateway.http.response import UpstreamResponse
from neuron.wire import ApiError


async def read_refusal(response: UpstreamResponse) -> ApiError:
    """The error that an answer states; a 502 that quotes its status where it states none.

    Closes the response. Raises `UpstreamError` when the answer breaks off.
    """
    try:
        body = await response.read(MAX_ERROR_BYTES)
    finally:
        response.close()
    return read_error(response.status, body, response.header(b"retry-after"))
