"""The programs of a whole fleet on one machine."""

from __future__ import annotations

import os
import sys

from bench.chaos.world import Program


def test_a_program_has_a_session_of_its_own(tmp_path):
    program = Program("idle", [sys.executable, "-c", "input()"], dict(os.environ), tmp_path / "log")
    program.start()
    try:
        assert program.process is not None
        assert os.getsid(program.process.pid) == program.process.pid
    finally:
        program.kill()
