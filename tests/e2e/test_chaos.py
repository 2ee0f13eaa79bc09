"""Half a minute of a real fleet whose parts are killed at random; see `bench/chaos`."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.bench.running import documented
from tests.e2e.conftest import clean_environment

pytestmark = pytest.mark.e2e


def test_no_request_is_lost_and_nothing_stays_stuck():
    command = [sys.executable, "-m", "bench.chaos", "--minutes", "0.5", "--seed", "7", "--json"]
    done = subprocess.run(
        command, env=clean_environment(), capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr[-5000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert sorted(report) == sorted(documented("bench.command") + documented("bench.chaos"))
    zero = ("lost", "stuck", "disagreements", "unanswered")
    assert {key: report[key] for key in zero} == dict.fromkeys(zero, 0), report
    assert report["outcomes"]["ok"] > 25, report
    assert sum(report["faults"].values()) > 2, report
