"""Content codings (RFC 9110, 8.4): gzip, deflate, br and zstd, of requests and of answers."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVarTuple, Unpack

from django.http import HttpResponse

from cortex_site.http.parsed_request import BadRequestError, ParsedRequest, too_large
from cortex_site.http.response import BytesResponse

COMPRESS_FROM_BYTES = 1 << 14
_MAX_MEMBERS = 64  # of one body; each costs a copy of what follows it
_ZSTD_WINDOW_LOG = 23  # 8 MiB: no coder may ask for more over HTTP (RFC 9659)
_GZIP, _ZLIB, _RAW_DEFLATE = 31, 15, -15
_WEIGHT = re.compile(r"q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)")


# Few, so that bodies of which nobody knows yet whether their sender may send any cannot fill the memory.
_THREADS = ThreadPoolExecutor(2, "content-coding")
Ts = TypeVarTuple("Ts")


class Decoder(Protocol):
    """A decompressor of the standard library's shape, for one member of a body."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...


async def _in_thread(work: Callable[[Unpack[Ts]], bytes], *arguments: *Ts) -> bytes:
    return await asyncio.get_running_loop().run_in_executor(_THREADS, work, *arguments)


async def decoded(request: ParsedRequest, max_bytes: int) -> bytes:
    """Return the request's body without its `Content-Encoding`, decoded in a thread.

    Raises `BadRequestError`: 415 for a coding that is not known, 400 if the body is not in it, and 413 if it
    decodes to more than `max_bytes`, of which no more than the first are decoded.
    """
    coding = request.headers[b"content-encoding"].decode("latin-1").strip().lower()
    if coding in {"", "identity"}:
        return request.body
    decode = _DECODE.get(coding.removeprefix("x-"))
    if decode is None:
        message = f"The header `content-encoding: {coding}` is not supported; send one of {KNOWN}, or none."
        raise BadRequestError(415, message)
    try:
        body = await _in_thread(decode, request.body, max_bytes + 1)
    except ValueError as error:
        message = f"The body is not what the header `content-encoding: {coding}` says: {error}."
        raise BadRequestError(400, message) from error
    if len(body) > max_bytes:
        raise too_large(max_bytes)
    return body


async def compress(response: HttpResponse | BytesResponse, accepted: str | None) -> None:
    """Compress an answer, in a thread, if the client's `Accept-Encoding` allows a known coding."""
    coding = _choose(accepted) if accepted else None
    if coding is not None:
        response.content = await _in_thread(_ENCODE[coding], response.content)
        response.headers["content-encoding"] = coding
        varies = response.headers.get("vary")
        response.headers["vary"] = f"{varies}, accept-encoding" if varies else "accept-encoding"


def _choose(accepted: str) -> str | None:
    """Return the coding that the client prefers; of equals, the cheapest."""
    weights = {}
    for item in accepted.lower().split(","):
        name, _, parameter = item.partition(";")
        weights[name.strip()] = _weight(parameter.strip()) if parameter else 1.0
    others = weights.get("*", 0.0)
    coding = max(_ENCODE, key=lambda name: weights.get(name, others))
    weight = weights.get(coding, others)
    return coding if weight and weight >= weights.get("identity", 0.0) else None


def _weight(parameter: str) -> float:
    found = _WEIGHT.fullmatch(parameter)
    return float(found[1]) if found else 0.0


# --- the codings; no more than `limit` bytes of the result are wanted, and ValueError says what is broken ---


def _members(body: bytes, limit: int, make: Callable[[], Decoder]) -> bytes:
    """Decode members, one behind the other."""
    parts: list[bytes] = []
    for _ in range(_MAX_MEMBERS):
        decoder = make()
        parts.append(decoder.decompress(body, limit))
        limit -= len(parts[-1])
        if not limit:
            break
        if not decoder.eof:
            raise ValueError("it is cut off")
        body = decoder.unused_data
        if not body:
            break
    else:
        raise ValueError(f"it has more than {_MAX_MEMBERS} members")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _inflate(body: bytes, limit: int, wbits: int = _GZIP) -> bytes:
    try:
        return _members(body, limit, lambda: zlib.decompressobj(wbits))
    except zlib.error as error:
        raise ValueError(str(error)) from error


def _deflate(body: bytes, limit: int) -> bytes:
    """Some clients leave out the two bytes of zlib's head (RFC 9110, 8.4.1.2)."""
    has_head = len(body) > 1 and body[0] & 15 == zlib.DEFLATED and int.from_bytes(body[:2]) % 31 == 0
    return _inflate(body, limit, _ZLIB if has_head else _RAW_DEFLATE)


def _unbrotli(body: bytes, limit: int) -> bytes:
    import brotli  # noqa: PLC0415 - few clients send it

    decoder = brotli.Decompressor()
    try:
        content: bytes = decoder.process(body, output_buffer_limit=limit)
    except brotli.error as error:
        raise ValueError("the decoder failed") from error
    if len(content) < limit and not decoder.is_finished():
        raise ValueError("it is cut off")
    return content


def _unzstd(body: bytes, limit: int) -> bytes:
    from backports import zstd  # noqa: PLC0415 - few clients send it

    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
    try:
        return _members(body, limit, lambda: zstd.ZstdDecompressor(options=options))
    except zstd.ZstdError as error:
        raise ValueError(str(error).rstrip(".")) from error


def _brotli(content: bytes) -> bytes:
    import brotli  # noqa: PLC0415 - see above

    result: bytes = brotli.compress(content, quality=1)
    return result


def _zstd(content: bytes) -> bytes:
    from backports import zstd  # noqa: PLC0415 - see above

    result: bytes = zstd.compress(content, 1)
    return result


_DECODE: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _inflate,
    "deflate": _deflate,
    "br": _unbrotli,
    "zstd": _unzstd,
}
KNOWN = ", ".join(_DECODE)
_ENCODE: dict[str, Callable[[bytes], bytes]] = {
    "zstd": _zstd,
    "br": _brotli,
    "gzip": lambda content: zlib.compress(content, 1, _GZIP),
    "deflate": lambda content: zlib.compress(content, 1, _ZLIB),
}
