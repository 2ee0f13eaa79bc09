"""What docs/generate makes: every setting, command and endpoint has its place, links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

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
    of_settings = {page for page in there if page.count("/") > 1}  # linked from their file's page
    assert named == there - of_settings


def test_every_command_has_its_man_page(made):
    page = (made / "man" / "cortex.1").read_text()
    for command in ("up", "serve", "init", "doctor", "backup", "restore", "join\\-token"):
        assert f".B cortex {command}" in page
    assert ".B neuron serve" in (made / "man" / "neuron.1").read_text()
    assert not [line for line in page.splitlines() if line.startswith("'")]


def test_a_setting_says_what_it_is(made):
    text = (made / "site-source" / "settings" / "cortex-toml" / "gateway.idle_timeout_s.md").read_text()
    assert text.startswith("# `gateway.idle_timeout_s`")
    assert "In the table `[gateway]` of [cortex.toml](../cortex-toml.md)." in text
    assert "Longest silence within an answer." in text
    assert "number (more than 0" in text
    assert "Default: `300.0`" in text
    assert "Environment: `CORTEX_GATEWAY__IDLE_TIMEOUT_S`" in text


def walked(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[str]:
    """Every setting of a model, by its tables and its key."""
    for key, field in model.model_fields.items():
        inner, _ = settings.table_of(field.annotation)
        if inner:
            yield from walked(inner, (*path, key))
        else:
            yield ".".join((*path, key))


@pytest.mark.parametrize(("file", "model"), [(file, of[0]) for file, of in settings.FILES.items()])
def test_every_setting_has_a_page_with_its_meaning_and_a_link_to_it(made, file, model):
    folder, stem = made / "site-source" / "settings", file.replace(".", "-")
    names = sorted(walked(model))
    assert sorted(path.stem for path in (folder / stem).glob("*.md")) == names
    links = LINK.findall((folder / f"{stem}.md").read_text())
    assert sorted(links) == [f"{stem}/{name}.md" for name in names]
    for name in names:
        _, _, meaning, facts = (folder / stem / f"{name}.md").read_text().strip().split("\n\n")
        assert meaning.endswith(".")
        assert "- Type: " in facts
        assert "- Default: " in facts
