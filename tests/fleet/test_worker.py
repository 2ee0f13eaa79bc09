from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fleet.models import Device, Operation
from fleet.services import lifecycle
from fleet.services.operations import execution

ROOT = Path(__file__).parents[2]


@contextmanager
def worker(environment, log):
    """A Celery worker as `cortex serve` starts it; leaving kills it, and gives it no time to tidy up."""
    command = [sys.executable, "-m", "fleet.background", "tasks"]
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_worker_killed_half_way_is_succeeded_by_another(fleet, folder, redis_server, until, tmp_path):
    node = fleet.node("a")
    fleet.model()
    environment = os.environ | {
        "CORTEX_STATE_DIR": str(folder),
        "CORTEX_REDIS__URL": redis_server.url,
        "PYTHONWARNINGS": "default",
    }
    operation = lifecycle.ensure_loaded("m", requested_by="test").id
    with ExitStack() as heirs:
        with node.hold("/models/load"):
            with worker(environment, tmp_path / "first"):
                until(lambda: node.loads("m") == 1, limit_s=60)
            assert lifecycle.operation(operation).state == "running"
            assert Device.objects.exclude(claimed_by=None).count() == 1
            fleet.orphan(operation)  # ten seconds later
            execution.reconcile()
            heirs.enter_context(worker(environment, tmp_path / "second"))
            until(lambda: node.loads("m") == 2, limit_s=60)
        until(lambda: not lifecycle.operation(operation).is_active, limit_s=60)
    row = Operation.objects.get()
    assert (row.state, row.node, row.message) == ("succeeded", "a", "loaded on a")
    assert not Device.objects.exclude(claimed_by=None).exists()
