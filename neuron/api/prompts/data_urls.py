"""What data URLs in a body hold."""

from __future__ import annotations

import binascii
from base64 import b64decode

from neuron.api.errors import invalid


def parse_data_url(url: str) -> tuple[str, str] | None:
    """The media type of a data URL and its base64; None for another kind of address."""
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        return None
    return head.removeprefix("data:").removesuffix(";base64"), data


def decoded(data: str, param: str) -> bytes:
    """The bytes of some base64. Raises `ApiError` 400."""
    try:
        return b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(param, f"{param}: not base64: {error}.") from error
