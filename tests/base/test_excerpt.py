from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cortex_site.base.excerpt import excerpt


@given(st.text(max_size=300), st.integers(40, 200))
def test_an_excerpt_is_bounded_and_keeps_both_ends(text, limit):
    shown = excerpt(text, limit)
    if len(text) <= limit:
        assert shown == text
    else:
        assert len(shown) <= limit + 40
        first, _, last = shown.partition(" … ")
        assert text.startswith(first)
        assert text.endswith(last.rpartition(" … ")[2])
