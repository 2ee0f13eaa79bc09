"""GGUF files made byte by byte, also such as no writer makes."""

from __future__ import annotations

import struct
from collections.abc import Sequence

U8, I8, U32, F32, BOOL, STRING, ARRAY, U64 = 0, 1, 4, 6, 7, 8, 9, 10
Q8_0, Q4_0_4_4 = 8, 31


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def number(value: int) -> bytes:
    return struct.pack("<I", value)


def array(kind: int, count: int, items: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + items


def tensor(name: str, dimensions: Sequence[int] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
    return text(name) + sizes + struct.pack("<IQ", kind, offset)


def file(
    keys: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    version: int = 3,
    num_keys: int | None = None,
    num_tensors: int | None = None,
    alignment: int = 32,
) -> bytes:
    num_keys = len(keys) if num_keys is None else num_keys
    num_tensors = len(tensors) if num_tensors is None else num_tensors
    head = b"GGUF" + struct.pack("<IQQ", version, num_tensors, num_keys)
    head += b"".join([*keys, *tensors])
    return head + bytes(-len(head) % alignment) + data


def texts(*values: str) -> bytes:
    return array(STRING, len(values), b"".join(map(text, values)))


SMALL_DATA = 512 + 4096  # bytes of the tensors of `SMALL`, after all else


def _small() -> bytes:
    """Return a whole file of a model with all that is read, which is of no use."""
    wholes = {"block_count": 1, "context_length": 64, "embedding_length": 32, "feed_forward_length": 32}
    wholes["attention.head_count"] = 2
    keys = [key("general.architecture", STRING, text("llama"))]
    keys += [key(f"llama.{name}", U32, number(value)) for name, value in wholes.items()]
    keys += [key("llama.attention.layer_norm_rms_epsilon", F32, struct.pack("<f", 1e-5))]
    keys += [
        key("tokenizer.ggml.model", STRING, text("gpt2")),
        key("tokenizer.ggml.pre", STRING, text("qwen2")),
    ]
    keys += [key("tokenizer.ggml.tokens", ARRAY, texts("a", "b", "ab", "<s>"))]
    keys += [key("tokenizer.ggml.token_type", ARRAY, array(U32, 4, b"".join(map(number, (1, 1, 1, 3)))))]
    keys += [
        key("tokenizer.ggml.merges", ARRAY, texts("a b")),
        key("tokenizer.ggml.eos_token_id", U32, number(3)),
    ]
    keys += [
        key("tokenizer.ggml.add_bos_token", BOOL, b"\0"),
        key("tokenizer.chat_template", STRING, text("{{ x }}")),
    ]
    rows = [tensor("token_embd.weight", (32, 4)), tensor("blk.0.attn_q.weight", (32, 32), offset=512)]
    return file(keys, rows, bytes(SMALL_DATA))


SMALL = _small()
