"""The system prompt and the project's instructions in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helexa_acp.agent import system_prompt
from helexa_acp.agent.modes import Mode
from helexa_acp.agent.system_prompt import PromptError, PromptOverrides, build

PLAN = Path("/data/plans/p.md")


@pytest.fixture
def repository(project):
    (project / ".git").mkdir()
    (project / "app" / "core").mkdir(parents=True)
    (project / "AGENTS.md").write_text("Use tabs.")
    (project / "app" / "core" / "AGENTS.md").write_text("No: use spaces here.")
    return project


def told(cwd, mode=Mode.DEFAULT, override=None):
    return build(str(cwd), mode, PLAN, PromptOverrides(override))


def test_agents_md_is_read_from_the_root_down_the_nearest_last(repository):
    (repository.parent / "AGENTS.md").write_text("Of another project.")
    text = told(repository / "app" / "core")
    assert text.index("Use tabs.") < text.index("No: use spaces here.")
    assert str(repository / "AGENTS.md") in text
    assert "another project" not in text
    assert "spaces" not in told(repository / "app")


def test_without_a_repository_only_the_directory_counts(project):
    (project.parent / "AGENTS.md").write_text("Of above.")
    (project / "AGENTS.md").write_text("Of here.")
    assert "Of here." in told(project)
    assert "Of above." not in told(project)


def test_files_from_outside_the_repository_are_not_read(repository, tmp_path):
    (tmp_path / "secret").write_text("The secret.")
    (repository / "app" / "AGENTS.md").symlink_to(tmp_path / "secret")
    (repository / "app" / "core" / "AGENTS.md").unlink()
    os.mkfifo(repository / "app" / "core" / "AGENTS.md")  # reading it would block
    text = told(repository / "app" / "core")
    assert "The secret." not in text
    assert "Use tabs." in text


def test_a_link_within_the_repository_is_followed(repository):
    (repository / "app" / "AGENTS.md").symlink_to("core/AGENTS.md")
    assert told(repository / "app").count("No: use spaces here.") == 1


def test_a_long_agents_md_is_cut(project, monkeypatch):
    monkeypatch.setattr(system_prompt, "MAX_GUIDE_CHARS", 10)
    (project / "AGENTS.md").write_text("x" * 10 + "y" * 10)
    text = told(project)
    assert "x" * 10 in text
    assert "xy" not in text


def test_a_prompt_file_replaces_the_built_in_prompt_but_not_agents_md(repository, tmp_path):
    (tmp_path / "own.md").write_text("Own words for {cwd}, {braces}.")
    text = told(repository, override=tmp_path / "own.md")
    assert text.startswith(f"Own words for {repository}, {{braces}}.")
    assert "Use tabs." in text


def test_an_unreadable_prompt_file_is_an_error_that_names_it(project):
    with pytest.raises(PromptError, match="no-such"):
        told(project, override=project / "no-such")


def test_plan_mode_says_where_the_plan_goes(project):
    assert str(PLAN) in told(project, Mode.PLAN)
    assert str(PLAN) not in told(project)
