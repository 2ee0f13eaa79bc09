"""HTTP that is nearly right, in pieces: what hypothesis feeds to whatever reads a socket."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import strategies as st

SPICE = [
    b"\r\n",
    b"\n",
    b" ",
    b":",
    b"\t",
    b"\0",
    b"\x80",
    b"content-length: 3\r\n",
    b"Connection: close\r\n",
]
SPICE += [b"transfer-encoding: chunked\r\n", b"Upgrade: h2c\r\n", b"HTTP/1.0", b" x\r\n", b"%41", b"#"]


@st.composite
def spoiled(draw, texts) -> bytes:
    data = bytearray(draw(st.sampled_from(texts)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 12))] = draw(st.sampled_from(SPICE) | st.binary(max_size=4))
    return bytes(data)


@st.composite
def in_pieces(draw, data: st.SearchStrategy[bytes]) -> list[bytes]:
    """The same bytes, cut anywhere."""
    whole = draw(data)
    cuts = draw(st.sets(st.integers(1, max(1, len(whole) - 1)), max_size=6))
    edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    return [whole[a:b] for a, b in pairwise(edges)]
