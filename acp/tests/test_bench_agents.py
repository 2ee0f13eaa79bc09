"""The benchmark in its smallest size: this agent alone does the ten tasks, driven by acpx."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from acp_testing.clients import ACPX, CLIENTS
from hypothesis import given
from hypothesis import strategies as st

from bench.agents.endpoint import same_start
from bench.agents.tasks import TASKS

PROJECT = CLIENTS.parents[1]
TIMEOUT_S = 400
SMALL_START_TOKENS = 2_500  # of the system prompt and the tools


def test_all_tasks_are_done_with_short_prompts_whose_start_stays():
    argv = [sys.executable, "-m", "bench.agents", "--smoke", "--json", "--acpx", str(ACPX)]
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        argv, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ours = json.loads(done.stdout)["agents"]["helexa-acp"]
    assert ours["not_done"] == {}
    assert ours["tasks_done"] == len(TASKS) == 10
    assert ours["cached_share"] >= 0.9
    assert ours["tokens_by_task"]["create"] / 2 < SMALL_START_TOKENS  # two requests
    assert ours["first_update_ms"] is not None
    assert ours["rss_mib"] > 0


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_the_same_start_is_all_that_two_prompts_begin_with(start, one, other):
    one, other = start + one, start + other
    differs = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    assert same_start(one, other) == next(differs, min(len(one), len(other)))
