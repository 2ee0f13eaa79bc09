"""GGUF files as strangers write them: what is wrong is named, and nothing is made of what is only claimed."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron.models.checkpoint import ModelLoadError
from neuron.models.gguf.container import read_container
from neuron.models.gguf.metadata import GgufKeys
from neuron.models.gguf.split_files import read_files
from neuron.models.gguf.text import read_gguf_text
from neuron.models.reading import read_checkpoint
from tests.gguf.raw import (
    ARRAY,
    BOOL,
    F32,
    I8,
    Q4_0_4_4,
    Q8_0,
    SMALL,
    STRING,
    U8,
    U32,
    U64,
    array,
    file,
    key,
    number,
    tensor,
    text,
)

ARCHITECTURE = key("general.architecture", STRING, text("llama"))
ROW = bytes(range(128))

HOSTILE = {
    "empty": (b"", "is empty"),
    "another file": (b"PK\x03\x04" + bytes(40), "is not a GGUF file"),
    "older": (b"tjgg" + bytes(40), "is a file of a format before GGUF"),
    "cut in its magic": (b"GG", "is not a GGUF file"),
    "version 1": (file(version=1), "is of version 1 of GGUF"),
    "version 4": (file(version=4), "is of version 4 of GGUF"),
    "big-endian": (b"GGUF" + bytes([0, 0, 0, 3]) + bytes(40), "is big-endian"),
    "many keys": (file(num_keys=1 << 60), "claims 1152921504606846976 keys, for which"),
    "more keys than bytes": (file([ARCHITECTURE], num_keys=50_000), "claims 50000 keys"),
    "many tensors": (file(num_tensors=1 << 63), "claims 9223372036854775808 tensors"),
    "long name": (file([text(b"a" * 70_000) + bytes(20)]), "key 1 of 1 has a name of 70000 bytes"),
    "endless name": (file([struct.pack("<Q", 1 << 62) + bytes(20)]), "key 1 of 1 has a name of"),
    "nameless": (file([key("", U8, b"\1")]), "key 1 of 1 has the name b''"),
    "endless text": (file([key("a", STRING, struct.pack("<Q", 1 << 62))]), "key a needs 4611686018427387904"),
    "no text": (file([key("a", STRING, text(b"\xff"))]), "key a is not UTF-8 text"),
    "strange type": (file([key("a", 13, bytes(8))]), "key a is of type 13"),
    "strange array": (file([key("a", ARRAY, array(99, 1, bytes(8)))]), "key a is an array of type 99"),
    "nested": (file([key("a", ARRAY, array(ARRAY, 1, array(U8, 0)))]), "key a is an array of arrays"),
    "endless array": (file([key("a", ARRAY, array(U64, 1 << 61))]), "claims 2305843009213693952 values"),
    "endless texts": (file([key("a", ARRAY, array(STRING, 1 << 40))]), "claims 1099511627776 strings in"),
    "key twice": (file([ARCHITECTURE, ARCHITECTURE]), "the key general.architecture stands in it twice"),
    "alignment 48": (file([key("general.alignment", U32, number(48))]), "general.alignment is 48"),
    "alignment 0": (file([key("general.alignment", U32, number(0))]), "general.alignment is 0"),
    "wide alignment": (file([key("general.alignment", U32, number(1 << 31))]), "general.alignment is 2147"),
    "text as alignment": (file([key("general.alignment", STRING, text("x"))]), "general.alignment is 'x'"),
    "tensor twice": (file((), [tensor("t"), tensor("t")], ROW), "the tensor t stands in it twice"),
    "no dimensions": (file((), [tensor("t", ())], ROW), "t has 0 dimensions"),
    "five dimensions": (file((), [tensor("t", (1,) * 5)], ROW), "t has 5 dimensions"),
    "empty dimension": (file((), [tensor("t", (32, 0))], ROW), r"t has shape \[0, 32\], which is empty"),
    "row of 40": (file((), [tensor("t", (40, 2), Q8_0)], ROW), "rows of 40 values, which Q8_0 cannot"),
    "type 99": (file((), [tensor("t", kind=99)], ROW), "t is of type 99, which no version"),
    "type of one processor": (file((), [tensor("t", kind=Q4_0_4_4)], ROW), "of type Q4_0_4_4, a layout"),
    "offset between": (file((), [tensor("t", (1,), offset=4)], ROW), "t begins at 4, which is no multiple"),
    "offset far away": (file((), [tensor("t", offset=1 << 62)], ROW), "is cut short or damaged: t ends at"),
    "sizes that overflow": (file((), [tensor("t", (1 << 33,) * 4)], ROW), "cut short or damaged: t ends at"),
    "cut short": (file((), [tensor("t")], ROW[:-1]), "is cut short or damaged: t ends at byte"),
    "overlap": (file((), [tensor("a"), tensor("b", offset=96)], bytes(224)), "b begins inside a"),
}  # fmt: skip


@contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_wrong_is_named_before_anything_is_made_of_it(tmp_path, name):
    content, message = HOSTILE[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with little_memory(), pytest.raises(ModelLoadError, match=rf"model.gguf: .*{message}"):
        read_container(path)


def test_keys_of_every_type_are_read(tmp_path):
    numbers = {"u8": (U8, b"\xff", 255), "i8": (I8, b"\xff", -1), "u32": (U32, number(7), 7)}
    numbers |= {"f32": (F32, struct.pack("<f", 0.5), 0.5), "bool": (BOOL, b"\1", True)}
    keys = [key(name, kind, raw) for name, (kind, raw, _) in numbers.items()]
    keys += [key("texts", ARRAY, array(STRING, 2, text("a") + text("ü"))), key("none", ARRAY, array(U8, 0))]
    keys += [key("bools", ARRAY, array(BOOL, 2, b"\1\0")), key("text", STRING, text("ü"))]
    path = tmp_path / "model.gguf"
    path.write_bytes(file(keys, version=2))
    values = {name: value for name, (_, _, value) in numbers.items()}
    values |= {"texts": ["a", "ü"], "none": [], "bools": [True, False], "text": "ü"}
    assert read_container(path).values == values


@pytest.mark.parametrize("alignment", [16, 32, 64])
def test_gaps_another_order_and_a_missing_end_are_read(tmp_path, alignment):
    keys = [key("general.alignment", U32, number(alignment))]
    tensors = [tensor("second", (3,), offset=256), tensor("first", (16, 2))]
    content = file(keys, tensors, ROW + bytes(128) + ROW[:12], alignment=alignment)
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    found = read_container(path).tensors
    assert found["first"].shape == (2, 16)
    assert content[found["first"].start :][:128] == ROW
    assert found["second"].start + found["second"].num_bytes == len(content)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    (folder / "small.gguf").write_bytes(SMALL)
    return folder, SMALL


CHANGES = st.lists(
    st.tuples(st.integers(0, 1200), st.binary(min_size=1, max_size=8), st.booleans()), min_size=1, max_size=4
)


@given(changes=CHANGES, length=st.integers(-40, 0))
def test_a_changed_file_is_read_or_refused(small, changes, length):
    folder, content = small
    raw = bytearray(content)
    for place, new, is_inserted in changes:
        raw[place : place + (0 if is_inserted else len(new))] = new
    path = folder / "changed.gguf"
    path.write_bytes(raw[: length or None])
    for read in (lambda path: GgufKeys(read_files(path)), read_gguf_text, read_checkpoint):
        try:
            read(path)
        except ModelLoadError as error:
            assert "changed.gguf" in error.message  # noqa: PT017 - or it raises nothing


def test_a_whole_file_is_read(small):
    folder, _ = small
    assert read_checkpoint(folder / "small.gguf").config["vocab_size"] == 4
    assert read_gguf_text(folder / "small.gguf").tokenizer.encode("ab").ids == [2]
