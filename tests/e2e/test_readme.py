"""What README and the tutorial tell a newcomer to type, typed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT
from tests.e2e.conftest import clean_environment

pytestmark = pytest.mark.e2e

README = (ROOT / "README.md").read_text()
TUTORIAL = (ROOT / "docs/tutorial.md").read_text()
STEPS = re.findall(r"^```bash\n(.*?)^```\n\n```text\n(.*?)^```", TUTORIAL, re.MULTILINE | re.DOTALL)


def block(words: str) -> str:
    """The fenced block that holds these words."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    (found,) = (text for text in blocks if words in text)
    return found


def test_the_first_question_has_its_answer(stack):
    typed = block("curl -N").replace("http://127.0.0.1:31313", stack.api)
    told = subprocess.run(["bash", "-c", typed], capture_output=True, text=True, check=False, timeout=120)
    pieces = "".join(re.findall(r'"content": ?"([^"]*)"', told.stdout))
    assert "13131" in pieces
    assert told.stdout.rstrip().endswith("data: [DONE]")


def test_the_sdk_s_lines_run(stack):
    typed = block("from openai import OpenAI").replace("http://127.0.0.1:31313", stack.api)
    program = f"{typed}\nprint(answer.choices[0].message.content)"
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120
    )
    assert "13131" in told.stdout, told.stderr


def test_every_command_of_the_tutorial_says_what_to_expect():
    assert len(STEPS) == TUTORIAL.count("```bash") > 5


@pytest.mark.parametrize(("typed", "expected"), STEPS, ids=map(str, range(len(STEPS))))
def test_a_step_of_the_tutorial_does_what_it_says(stack, typed, expected):
    for offset, port in enumerate((31313, 31314)):
        typed = typed.replace(f"127.0.0.1:{port}", f"127.0.0.1:{stack.base_port + offset}")
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    here = clean_environment() | {"PATH": programs, "CORTEX_STATE_DIR": str(stack.home)}
    command = ("bash", "-euo", "pipefail", "-c", typed)

    def is_done() -> bool:  # what is counted, and what is polled, shows a little later
        told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=here)
        return told.returncode == 0 and all(line in told.stdout for line in expected.splitlines())

    stack.eventually(is_done)
