"""What docs/generate makes: every setting, command and endpoint has its place, links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from cortex_site.config.cortex_toml import CortexConfig
from docs.generate import settings
from tests.architecture.tree import ROOT

LINK = re.compile(r"\[[^\]]*\]\(([^)\s#:]+)(?:#[^)]*)?\)")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "docs.generate", folder / "site-source", folder / "man"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return folder


def test_every_link_leads_to_a_page_or_a_file(made):
    lost = [
        f"{page.name}: {target}"
        for page in (made / "site-source").rglob("*.md")
        for target in LINK.findall(page.read_text())
        if not (page.parent / target).exists()
    ]
    assert not lost


def test_every_page_is_in_the_navigation(made):
    nav = yaml.safe_load((made / "mkdocs.yml").read_text())["nav"]
    named = {
        page
        for entry in nav
        for pages in entry.values()
        for page in ([pages] if isinstance(pages, str) else pages)
    }
    source = made / "site-source"
    there = {str(path.relative_to(source)) for path in source.rglob("*.md")}
    assert named == there


def test_every_command_has_its_man_page(made):
    page = (made / "man" / "cortex.1").read_text()
    for command in ("up", "serve", "init", "doctor", "backup", "restore", "join\\-token"):
        assert f".B cortex {command}" in page
    assert ".B neuron serve" in (made / "man" / "neuron.1").read_text()
    assert not [line for line in page.splitlines() if line.startswith("'")]


def test_a_setting_says_what_it_is(made):
    text = (made / "site-source" / "settings" / "cortex-toml.md").read_text()
    entry = text.partition("### `idle_timeout_s`")[2].partition("###")[0]
    assert "Longest silence within an answer." in entry
    assert "number (more than 0" in entry
    assert "Default: `300.0`" in entry
    assert "Environment: `CORTEX_GATEWAY__IDLE_TIMEOUT_S`" in entry


def keys(model: type[BaseModel]) -> set[str]:
    found = set(model.model_fields)
    for field in model.model_fields.values():
        inner, _ = settings.table_of(field.annotation)
        found |= keys(inner) if inner else set()
    return found


def test_every_setting_has_its_entry():
    text = settings.page("cortex.toml", CortexConfig, "CORTEX_", "")
    tables = set(re.findall(r"^## `\[+(?:\w+\.)*(\w+)\]+`", text, re.MULTILINE))
    entries = {
        name for head in re.findall(r"^### (.*)", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", head)
    }
    assert keys(CortexConfig) <= entries | tables
