from __future__ import annotations

import itertools
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ext.conftest import load_compiled, load_source, variants

MODULES = variants("sse")
NAMES = [module.values[0] for module in MODULES]


@pytest.fixture(params=MODULES)
def sse(request):
    return request.param


def event(payload, end="\n\n") -> bytes:
    return b"data: " + json.dumps(payload).encode() + end.encode()


def delta(finish=None, **fields) -> dict:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 3}}
DONE = b"data: [DONE]\n\n"


def run(module, data: bytes, *, cuts=(), hide=False):
    scanner = module.SSEScanner(hide)
    edges = [0, *sorted(cuts), len(data)]
    out = b"".join(scanner.feed(data[a:b]) for a, b in itertools.pairwise(edges)) + scanner.close()
    facts = (scanner.visible, scanner.finish, scanner.done, scanner.usage, scanner.error, scanner.events)
    return out, facts


@pytest.mark.skipif("CORTEX_PURE_PYTHON" in os.environ, reason="compiled modules were switched off")
def test_the_compiled_module_is_there():
    assert load_compiled("sse") is not None, "build it: pip install -e . (needs a C compiler)"


def test_role_chunk_is_not_visible_and_text_is(sse):
    scanner = sse.SSEScanner()
    scanner.feed(event(delta(role="assistant", content="")) + event(delta(content=None, tool_calls=[])))
    assert not scanner.visible
    scanner.feed(event(delta(content='"')))
    assert scanner.visible


@pytest.mark.parametrize(
    "fields", [{"reasoning_content": "x"}, {"reasoning": "x"}, {"tool_calls": [{"index": 0}]}]
)
def test_reasoning_and_tool_calls_are_visible(sse, fields):
    scanner = sse.SSEScanner()
    scanner.feed(event(delta(**fields)))
    assert scanner.visible


def test_text_that_looks_like_json_is_text(sse):
    scanner = sse.SSEScanner()
    scanner.feed(event(delta(content='{"usage": {"a": 1}, "error": {"b": 2}, "finish_reason": "stop"}')))
    assert not scanner.usage
    assert not scanner.error
    assert not scanner.finish


def test_finish_usage_done_error(sse):
    scanner = sse.SSEScanner()
    scanner.feed(event(delta(finish="stop")) + event(USAGE) + DONE)
    assert scanner.finish
    assert scanner.done
    assert json.loads(scanner.usage) == USAGE
    scanner.feed(event({"error": {"message": "x"}}))
    assert json.loads(scanner.error) == {"error": {"message": "x"}}


def test_usage_null_is_no_usage(sse):
    scanner = sse.SSEScanner()
    scanner.feed(event(delta(content="x") | {"usage": None, "error": None}))
    assert not scanner.usage
    assert not scanner.error


def test_hidden_usage_takes_only_the_chunk_without_choices(sse):
    with_text = event(delta(content="x") | {"usage": {"prompt_tokens": 1}})
    out, facts = run(sse, with_text + event(USAGE) + DONE, hide=True)
    assert out == with_text + DONE
    assert json.loads(facts[3]) == USAGE


@pytest.mark.parametrize("more", [{"choices": []}, {"choices": None}, {}, {"choices": [], "error": None}])
def test_hidden_usage_is_whatever_has_usage_and_no_choice(sse, more):
    usage = {"id": "c", "usage": {"prompt_tokens": 3}} | more
    out, facts = run(sse, event(delta(content="x")) + event(usage) + DONE, hide=True)
    assert out == event(delta(content="x")) + DONE
    assert json.loads(facts[3]) == usage
    assert run(sse, event(usage))[0] == event(usage)


def test_an_error_with_usage_is_not_hidden(sse):
    data = event({"error": {"message": "x"}, "usage": {"prompt_tokens": 3}})
    assert run(sse, data, hide=True)[0] == data


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r"])
def test_all_line_ends(sse, end):
    data = event(delta(content="x"), end) + event(USAGE, end) + f"data:[DONE]{end}".encode()
    out, facts = run(sse, data)
    assert out == data
    assert facts[0]
    assert facts[2]
    assert facts[5] == 2


def test_comments_and_other_fields_are_not_data(sse):
    out, facts = run(sse, b": usage {}\n\nevent: x\nid: 1\n\n")
    assert out == b": usage {}\n\nevent: x\nid: 1\n\n"
    assert facts[5] == 0


@pytest.mark.parametrize("remark", [b"ping", b" ", b": keep-alive", b"OPENROUTER PROCESSING", b"null", b"7"])
@pytest.mark.parametrize("hide", [True, False])
@pytest.mark.parametrize("cut", range(0, 30, 3))
def test_data_that_is_no_json_object_is_a_remark(sse, remark, hide, cut):
    text = event(delta(content="x"))
    out, facts = run(sse, b"data: " + remark + b"\n\n" + text + DONE, cuts=[cut], hide=hide)
    assert out == text + DONE
    assert facts[5] == 1


def test_an_endless_event_passes_and_is_forgotten(sse):
    scanner = sse.SSEScanner(True)
    piece = b"data: " + b"x" * (1 << 19)
    out = b"".join(scanner.feed(piece) for _ in range(8)) + scanner.close()
    assert out == piece * 8


pieces = st.one_of(
    st.builds(
        event, st.builds(delta, content=st.text(max_size=5)), st.sampled_from(["\n\n", "\r\n\r\n", "\r\r"])
    ),
    st.sampled_from([event(USAGE), event({"usage": {"prompt_tokens": 3}})]),
    st.just(DONE),
    st.just(b": ping\n\n"),
    st.binary(max_size=12),
)


@given(parts=st.lists(pieces, max_size=8), data=st.data(), hide=st.booleans())
def test_any_cut_gives_the_same(parts, data, hide):
    stream = b"".join(parts)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=10))
    results = [run(module, stream, cuts=cuts, hide=hide) for module in NAMES]
    whole = run(load_source("sse"), stream, hide=hide)
    assert all(result == whole for result in results)
    if not hide:
        assert whole[0] == stream


keys = "content reasoning_content reasoning text tool_calls finish_reason usage error choices context use"
marks = ['"', '\\"', ":", " : ", "{", "}", "[", "]", "[ ]", "null", '""', '"x"', ",", "\n", "\t", "\xff"]
words = st.sampled_from([*marks, *(f'"{key}"' for key in keys.split())]).map(
    lambda word: word.encode("latin-1")
)


@given(st.lists(words, max_size=12).map(b"".join))
def test_one_pass_finds_what_the_patterns_find(data):
    source = load_source("sse")
    assert source._facts(data, len(data)) == source._facts_by_patterns(data)
    results = [run(module, b"data: {" + data.replace(b"\n", b" ") + b"\n\n") for module in NAMES]
    assert all(result == results[0] for result in results)
