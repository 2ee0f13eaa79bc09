"""What README tells a newcomer to type, typed."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.architecture.tree import ROOT

pytestmark = pytest.mark.e2e

README = (ROOT / "README.md").read_text()


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
