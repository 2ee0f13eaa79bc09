"""How many heads a model has by its files, and over how many devices they can be split."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex_site.config.heads import heads_of
from neuron.split_heads import heads_problem


@pytest.mark.parametrize(
    ("config", "heads"),
    [
        ({"num_attention_heads": 8, "num_key_value_heads": 2}, (8, 2)),
        ({"num_attention_heads": 8}, (8, 8)),
        ({"text_config": {"num_attention_heads": 8, "num_key_value_heads": 4}}, (8, 4)),
        ({"num_attention_heads": "8"}, None),
        ({"num_attention_heads": -8}, None),
        ({"text_config": 3}, None),
        ([1], None),
        ("{", None),
    ],
)
def test_heads_are_read_from_a_directory_and_from_the_hubs_cache(config, heads, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--org--name" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    for source in (str(folder), "org/name"):
        found = heads_of(source)
        assert (found and found[1:]) == heads
    assert heads_of("org/other") is None


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 16))
def test_a_split_is_refused_unless_every_device_has_as_many_heads(kv_heads, group, ranks):
    heads = kv_heads * group
    problem = heads_problem(heads, kv_heads, ranks)
    even = heads % ranks == 0 and (kv_heads % ranks == 0 or ranks % kv_heads == 0)
    assert (problem is None) is even
    if problem:
        assert str(ranks) in problem
