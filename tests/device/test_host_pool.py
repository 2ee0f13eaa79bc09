"""Sessions whose pages left for host memory continue as if they had never gone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from neuron.device.page_pool import CODINGS
from neuron.pipe import Finished
from neuron.step import CacheShape
from tests.device.ranks import group, links, part
from tests.device.serving import Serving, decoder, prompt
from tests.device.zoo import save

# Room for one session of 60 tokens and its answer.
SHAPE = CacheShape(num_pages=9, page_size=8, num_slots=2, context=72, num_host_pages=20)


WITH_STATES = replace(SHAPE, num_snapshots=2, num_host_snapshots=8)


@pytest.mark.parametrize("family", ["qwen3_next", "jamba"])
def test_a_session_with_states_goes_on_with_what_came_back(family: str, tmp_path: Path):
    check_return(Serving(decoder(save(tmp_path / "m", family)), WITH_STATES))


def test_states_of_all_devices_come_back(tmp_path: Path):
    path = save(tmp_path / "m", "qwen3_next")
    with links(2) as made:
        check_return(group([part(path, rank, 2) for rank in range(2)], made, WITH_STATES))


@pytest.mark.parametrize(
    ("family", "coding"), [("llama", None), ("deepseek_v3", None), ("llama", "int8"), ("deepseek_v32", None)]
)
def test_a_session_goes_on_with_what_came_back(family: str, coding: str | None, tmp_path: Path):
    check_return(Serving(decoder(save(tmp_path, family)), SHAPE, coding=CODINGS.get(coding or "")))


def check_return(serving: Serving) -> None:
    sessions = [prompt(seed, 60) for seed in (1, 2)]
    for number in range(4):
        serving.submit(number, sessions[number % 2], max_tokens=8)
        serving.drain()
    for number in (0, 1):
        assert serving.tokens[number] == serving.tokens[number + 2]
        cached = [
            end.cached_tokens for n in (number, number + 2) if isinstance(end := serving.ends[n], Finished)
        ]
        assert cached == [0, 56]
