from __future__ import annotations

from neuron.api.answers.usage import total_usage, usage


def test_drafts_are_told_where_there_were_some():
    plain = usage(prompt=3, completion=4, cached=0, reasoning=1)
    drafted = usage(prompt=3, completion=9, cached=0, reasoning=0, drafted=8, accepted=6)
    assert plain.completion_tokens_details == {"reasoning_tokens": 1}
    expected = {"reasoning_tokens": 0, "accepted_prediction_tokens": 6, "rejected_prediction_tokens": 2}
    assert drafted.completion_tokens_details == expected
    assert total_usage([[plain, drafted]]).completion_tokens_details == expected | {"reasoning_tokens": 1}
