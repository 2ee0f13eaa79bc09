"""`enclose` beside two JSON writers: what is between the quotes reads as the text, whatever it is."""

from __future__ import annotations

import json
import os

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.ext.conftest import load_compiled, variants

MODULES = variants("chunk")
ALL = [module.values[0] for module in MODULES]
BEFORE, AFTER = b'data: {"id":"\xc3\xa4","choices":[{"delta":{"content":"', b'"}}]}\n\n'


@pytest.fixture(params=MODULES)
def module(request):
    return request.param


@pytest.mark.skipif("CORTEX_PURE_PYTHON" in os.environ, reason="compiled modules were switched off")
def test_the_compiled_module_is_there():
    assert load_compiled("chunk") is not None, "build it: pip install -e . (needs a C compiler)"


@given(st.text() | st.text('"\\\x00\x1f\n\r\t\b\f\x7f /<ü€\U0001f600', max_size=12))
@example("")
@example('"')
@example("\\")
@example("\x00")
@example("\u2028")
def test_any_text_is_written_as_a_json_writer_does(text):
    for module in ALL:
        written = module.enclose(BEFORE, text, AFTER)
        assert written.startswith(BEFORE)
        assert written.endswith(AFTER)
        inner = written[len(BEFORE) - 1 : len(written) - len(AFTER) + 1]
        assert json.loads(inner) == text
        assert inner == msgspec.json.encode(text)


@pytest.mark.parametrize("character", [*map(chr, range(0x80)), "\uffff", "\U0010ffff"])
def test_every_character_of_ascii(module, character):
    for text in (character, f"a{character}", f"{character}b"):
        assert json.loads(module.enclose(b'"', text, b'"')) == text


def test_an_event_has_no_line_end_but_its_own(module):
    written = module.enclose(BEFORE, "a\nb\r\nc\r\n\n", AFTER)
    assert written.count(b"\n") == 2
    assert b"\r" not in written


def test_half_a_surrogate_pair_is_an_error_and_nothing_else(module):
    with pytest.raises(UnicodeEncodeError):
        module.enclose(BEFORE, "\ud83d", AFTER)


@pytest.mark.parametrize(
    "arguments", [(None, "x", b""), (b"", None, b""), (b"", "x", None), (b"", b"x", b"")]
)
def test_other_types_are_errors(module, arguments):
    with pytest.raises((TypeError, AttributeError)):
        module.enclose(*arguments)
