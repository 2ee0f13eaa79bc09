"""Fields that a struct does not read, wherever they are in a body."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex_site.base.unread import MAX_NAMES, UnreadFields


class Text(msgspec.Struct, tag="text"):
    text: str = ""


class Picture(msgspec.Struct, tag="picture"):
    source: Text | None = None


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    inner: Text | None = None


class Body(msgspec.Struct):
    model: str = ""
    parts: list[Text | Picture] | str | None = None
    options: Text | None = None
    many: list[list[Picture]] = []
    strict: Strict | None = None
    free: dict[str, object] = {}
    later: msgspec.Raw = msgspec.Raw(b"")


UNREAD = UnreadFields(Body, {"known", "text.known"}, {(Body, "later"): list[Text | Picture]})
ROWS = {
    "top": ({"model": "m", "x": 1, "known": 1, "y": None}, ["x", "y"]),
    "part": ({"parts": [{"type": "text", "text": "a", "x": 1, "known": 2}]}, ["text.x"]),
    "text": ({"parts": "text"}, []),
    "null": ({"parts": [{"type": "text", "x": None}]}, []),
    "deep": ({"parts": [{"type": "picture", "source": {"type": "text", "x": {}}}]}, ["text.x"]),
    "twice": ({"parts": [{"type": "picture", "x": 1}] * 3}, ["picture.x"]),
    "lists": ({"many": [[{"type": "picture", "x": 1}]]}, ["picture.x"]),
    "other": ({"parts": [{"type": "smell", "x": 1}, {"x": 1}, 3]}, []),
    "strict": ({"strict": {"x": 1, "inner": {"type": "text", "y": 1}}}, ["text.y"]),
    "free": ({"free": {"x": {"y": 1}}}, []),
    "later": ({"later": [{"type": "text", "x": 1}]}, ["text.x"]),
}


@pytest.mark.parametrize("row", ROWS)
def test_rows(row):
    body, names = ROWS[row]
    assert list(UNREAD.of(json.dumps(body).encode())) == names


def test_names_are_bounded():
    assert len(UNREAD.of(json.dumps({f"x{number}": 1 for number in range(1000)}).encode())) == MAX_NAMES


values = st.recursive(
    st.none() | st.integers(0, 2) | st.sampled_from(["text", "picture"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "text", "source", "x", "inner"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*Body.__struct_fields__, "x"]), values, max_size=5))
def test_any_body_has_names(body):
    names = UNREAD.of(json.dumps(body).encode())
    assert ("x" in names) == ("x" in body)
    assert all(name.rpartition(".")[2] == "x" or "." in name for name in names)
