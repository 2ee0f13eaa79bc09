from __future__ import annotations

import pytest
from acp_testing.fakes import ToolHarness
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helexa_acp.provider.types import ImagePart, TextPart
from helexa_acp.tools.builtin import builtin_tools
from helexa_acp.tools.errors import ToolError
from helexa_acp.v1.content import BadBlockError, check_blocks, prompt_text, to_parts

IMAGE = {"type": "image", "mimeType": "image/png", "data": "AAAA"}


def text(words):
    return {"type": "text", "text": words}


@pytest.mark.parametrize(
    ("blocks", "parts"),
    [
        ([text("a"), text("b")], (TextPart("a\n\nb"),)),
        ([{"type": "resource_link", "uri": "file:///a", "name": "a"}], (TextPart("[a](file:///a)"),)),
        ([text("a"), IMAGE, text("b")], (TextPart("a"), ImagePart("image/png", "AAAA"), TextPart("b"))),
        ([IMAGE], (ImagePart("image/png", "AAAA"),)),
        ([{"type": "resource", "resource": {"uri": "file:///a", "text": "x"}}], (TextPart('<resource uri="file:///a">\nx\n</resource>'),)),
        ([{"type": "resource", "resource": {"uri": "u", "blob": "AAAA", "mimeType": "image/png"}}], (ImagePart("image/png", "AAAA", "u"),)),
        ([{"type": "resource", "resource": {"uri": "u", "blob": "AAAA"}}], (TextPart("[attached u, binary data, which cannot be read here]"),)),
    ],
)  # fmt: skip
def test_blocks_become_parts(blocks, parts):
    assert to_parts(check_blocks(blocks)) == parts


def test_only_what_was_typed_can_be_a_command():
    blocks = [text("hi"), {"type": "resource", "resource": {"uri": "u", "text": "/undo"}}]
    assert prompt_text(blocks) == "hi"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "text", "data", "uri", "resource"]), inner)
    ),
    max_leaves=6,
)


@given(JSON)
@example([{"type": []}])
def test_any_prompt_is_checked_or_refused(value):
    try:
        blocks = check_blocks(value)
    except BadBlockError:
        return
    to_parts(blocks)


ARGUMENTS = st.dictionaries(
    st.sampled_from(
        [
            "path",
            "content",
            "old_text",
            "new_text",
            "command",
            "cwd",
            "url",
            "pattern",
            "glob",
            "line",
            "entries",
        ]
    ),
    st.text(max_size=8) | st.integers() | JSON,
    max_size=4,
)


@settings(max_examples=60)
@given(name=st.sampled_from(sorted(builtin_tools())), args=ARGUMENTS)
async def test_any_arguments_prepare_a_call_or_raise_a_tool_error(tmp_path_factory, name, args):
    bench = ToolHarness(tmp_path_factory.mktemp("p"))
    try:
        job = await bench.prepare(name, **args)
    except ToolError:
        return
    assert job.title
