"""Nobody is told to install `cortex` from PyPI, where that is another project: wheels are named by file."""

from __future__ import annotations

import re

import pytest

from cortex_site.base.extras import cure
from tests.architecture.tree import ROOT, modules

COMMAND = re.compile(r"\b(?:pip|pipx|uv tool|uv pip) install ([^`\n]*)")
FROM_INDEX = re.compile(r"(?:^|\s)[\"']?cortex(?:\[[\w,{}]*\])?[\"']?(?=$|[\s.,;:)])(?! @)")
TOLD = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.*")})


def from_index(text: str) -> list[str]:
    """Return the commands that would install what an index has."""
    return [command for command in COMMAND.findall(text) if FROM_INDEX.search(command)]


def test_no_text_and_no_message_installs_another_project():
    files = [*TOLD, *modules().values()]
    assert len(files) > 300
    assert not {str(path): found for path in files if (found := from_index(path.read_text()))}


@pytest.mark.parametrize(
    ("command", "is_wrong"),
    [
        ("pip install cortex", True),
        ("pip install 'cortex[tracing]'", True),
        ("uv tool install -c constraints.txt cortex[all].", True),
        ("uv tool install -c constraints.txt 'cortex[all] @ FILE'", False),
        ("pipx install 'dist/cortex-0.1.0-cp311-cp311-manylinux_2_34_x86_64.whl[all]'", False),
        ("pip install cortex-neuron", False),
    ],
)
def test_a_command_that_would_is_found(command: str, is_wrong: bool):
    assert bool(from_index(command)) is is_wrong


def test_the_cure_of_a_missing_extra_names_the_wheel():
    assert "cortex[neuron]" in cure("neuron")
    assert "from the wheel" in cure("neuron")
