"""`peek` beside a full parse: where it answers at all, both say the same, whatever the bytes are."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.ext.conftest import variants

MODULES = variants("peek")
ALL = [module.values[0] for module in MODULES]


@pytest.fixture(params=MODULES)
def module(request):
    return request.param


class Options(msgspec.Struct):
    include_usage: bool = False


class Full(msgspec.Struct):
    """What a full parse reads; missing and null counts are None."""

    model: str
    stream: bool = False
    stream_options: Options | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None


def full(body: bytes) -> tuple | None:
    try:
        read = msgspec.json.decode(body, type=Full)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    usage = read.stream_options is not None and read.stream_options.include_usage
    return (read.model, read.stream, usage, read.max_tokens, read.max_completion_tokens, read.n)


def said(seen) -> tuple:
    counts = (seen.max_tokens, seen.max_completion_tokens, seen.n)
    return (seen.model, seen.stream, seen.include_usage, *(None if count < 0 else count for count in counts))


def check(body: bytes) -> list:
    """What the variants saw, held to the full parse where they saw anything."""
    seen = [module.peek(body) for module in ALL]
    for one in seen:
        assert (one is None) == (seen[0] is None)
        assert one is None or said(one) == full(body)
    return seen


def test_an_ordinary_body(module):
    body = (
        b'{"model": "m", "stream": true, "max_tokens": 12, "n": 2, "messages": [{"role": "user"}], "x": null}'
    )
    assert said(module.peek(body)) == ("m", True, False, 12, None, 2)


def test_nested_look_alikes_and_text_are_not_read(module):
    inner = {"model": "no", "stream": True, "max_tokens": 1, "stream_options": {"include_usage": True}}
    body = json.dumps({"a": inner, "b": json.dumps(inner), "model": "yes", "c": [inner]}).encode()
    assert said(module.peek(body)) == ("yes", False, False, None, None, None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"model":"a","model":"b"}',
        b'{"model":"m","stream":true,"stream":false}',
        b'{"mod\\u0065l":"b","model":"a"}',
        b'{"model":"\\u0061"}',
        b'{"model":1}',
        b'{"model":"m","stream":1}',
        b'{"model":"m","stream":null}',
        b'{"model":"m","max_tokens":1.0}',
        b'{"model":"m","max_tokens":-1}',
        b'{"model":"m","max_tokens":99999999999999999999}',
        b'{"model":"m","stream_options":[]}',
        b'{"model":"m","stream_options":{"include_usage":1}}',
        b'{"model":"m","stream_options":{"include_usage":true,"include_usage":false}}',
        b'{"model":"m"} x',
        b'{"model":"m",}',
        b'{"model":"m" "x":1}',
        b'{"model":"m","x":01}',
        b'{"model":"m","x":[1,]}',
        b'{"model":"m","x":"\\q"}',
        b'{"model":"m","x":"\\ud800"}',
        b'{"model":"m","x":"\n"}',
        b'{"model":"m","x":nul}',
        b'{"model":"\xff"}',
        b'{"model":"m","x":' + b"[" * 1000 + b"]" * 1000 + b"}",
    ],
)
def test_what_takes_a_full_parse_is_left_to_it(module, body):
    assert module.peek(body) is None


@pytest.mark.parametrize("text", ["ä", "\U0001f600", "\\n", '\\"', "\\ud83d\\ude00", "\\u00e4"])
def test_values_may_hold_any_text(module, text):
    body = f'{{"x":"{text}","model":"m","y":["{text}"]}}'.encode()
    assert module.peek(body).model == "m"


# --- any document, any bytes ---

names = st.sampled_from(["model", "stream", "max_tokens", "n", "stream_options", "include_usage", "messages"])
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8), names,
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(names, st.text(max_size=4)), inner, max_size=3)
    ),
    max_leaves=8,
)


def documents(text):
    """Chat bodies; `text` makes the model's name and keys that are none of ours."""
    known = st.fixed_dictionaries(
        {"model": text},
        optional={
            "stream": st.booleans(),
            "max_tokens": st.one_of(st.none(), st.integers(0, 10**12)),
            "max_completion_tokens": st.integers(0, 10**12),
            "n": st.integers(0, 9),
            "stream_options": st.one_of(
                st.none(),
                st.fixed_dictionaries(
                    {}, optional={"include_usage": st.booleans(), "x": values, "y": values}
                ),
            ),
            "messages": values,
        },
    )
    return st.builds(
        lambda ours, others: {**others, **ours}, known, st.dictionaries(text, values, max_size=3)
    )


plain = documents(st.text("model/-.:09 ", max_size=6))
wild = documents(st.text(max_size=6))


def written(document, draw) -> bytes:
    """As JSON, with what a writer is free to choose."""
    items = list(document.items())
    order = draw(st.permutations(items))
    spaces = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n\t", " : ")]))
    text = json.dumps(dict(order), separators=spaces, ensure_ascii=draw(st.booleans()))
    return (
        draw(st.sampled_from(["", " ", "\r\n\t "])).encode()
        + text.encode()
        + draw(st.sampled_from([b"", b" \n"]))
    )


@given(document=plain, data=st.data())
def test_a_plain_document_is_read_without_a_full_parse(document, data):
    assert check(written(document, data.draw))[0] is not None


@given(document=wild, data=st.data(), model=st.text(max_size=6))
def test_a_new_model_changes_the_model_alone(document, data, model):
    body = written(document, data.draw)
    for seen in check(body):
        if seen is not None:
            changed = seen.with_model(json.dumps(model).encode())
            assert json.loads(changed) == json.loads(body) | {"model": model}
            assert seen.with_model(json.dumps(seen.model, ensure_ascii=False).encode()) == body


@given(document=wild, data=st.data())
def test_usage_is_asked_for_and_nothing_else_changes(document, data):
    body = written(document, data.draw)
    for seen in check(body):
        if seen is not None:
            options = (json.loads(body).get("stream_options") or {}) | {"include_usage": True}
            assert json.loads(seen.with_usage()) == json.loads(body) | {"stream_options": options}


def test_a_large_body_is_changed_as_a_small_one(module):
    body = json.dumps({"messages": ["x" * 100_000], "model": "a", "stream": True}).encode()
    seen = module.peek(body)
    assert json.loads(seen.with_usage()) == json.loads(body) | {"stream_options": {"include_usage": True}}
    assert seen.with_model(b'"b"') == body.replace(b'"a"', b'"b"')


def damaged(body: bytes, at: int, drop: int, insert: bytes) -> bytes:
    at %= len(body) + 1
    return body[:at] + insert + body[at + drop :]


@given(
    document=wild,
    data=st.data(),
    at=st.integers(0, 1000),
    drop=st.integers(0, 3),
    insert=st.one_of(
        st.binary(max_size=3), st.sampled_from([b'"', b"\\", b"{", b"}", b"[", b",", b":", b"0", b"\\u"])
    ),
)
def test_a_damaged_document_is_never_misread(document, data, at, drop, insert):
    check(damaged(written(document, data.draw), at, drop, insert))


@given(st.binary(max_size=60))
@example(b'{"model":"m"')
@example(b'{"model":"m","x":-')
@example(b'{"model":"m","x":1e')
@example(b'{"model":"m","x":"\\u12')
@example(b'{"model":"m","x":"\\ud83d\\u')
@example(b'{"model":"m","x":tru')
def test_any_bytes_are_safe(body):
    check(body)
    for cut in range(len(body)):
        check(body[:cut])
