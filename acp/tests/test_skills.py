"""Skills: found where other agents look too, listed for the model, read on demand, and called by users."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa_acp.agent import system_prompt
from helexa_acp.agent.modes import Mode
from helexa_acp.front_matter import split_front_matter
from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.skill_tool import SkillTool
from helexa_acp.tools.skills import find_skills, skill_folders


def skill(folder, name, description="Do it", body="How to do it.", **files):
    path = folder / name
    path.mkdir(parents=True)
    (path / "SKILL.md").write_text(f"---\nname: {name}\ndescription: {description}\n---\n{body}\n")
    for file, text in files.items():
        (path / file).write_text(text)
    return path


@pytest.fixture
def places(project, tmp_path):
    config = tmp_path / "home" / ".config" / "helexa-acp"
    return lambda: find_skills(skill_folders(str(project), config))


@pytest.mark.parametrize(
    ("text", "fields", "body"),
    [
        ("---\na: 1\nb-c: 'x: y'\n---\nbody\n", {"a": "1", "b-c": "x: y"}, "body"),
        ("---\r\na: 1\r\n---\r\nbody", {"a": "1"}, "body"),
        ("---\na: >-\n  one\n  two\nb: 2\n---\n", {"a": "one two", "b": "2"}, ""),
        ("---\na: one\n  two\n---\nx", {"a": "one two"}, "x"),
        ("---\nurl: http://x\n---\n", {"url": "http://x"}, ""),
        ("no matter\n---\n", {}, "no matter\n---"),
        ("---\nopen", {}, "---\nopen"),
    ],
)
def test_front_matter_is_split_off(text, fields, body):
    assert split_front_matter(text) == (fields, body)


@given(st.text(alphabet="-\n a:>'", max_size=30))
def test_any_text_has_fields_or_none(text):
    split_front_matter(text)


def test_skills_are_found_in_the_project_and_of_the_user(places, project, tmp_path):
    home = tmp_path / "home"
    skill(project / ".helexa" / "skills", "mine", "of the project")
    skill(home / ".config" / "helexa-acp" / "skills", "mine", "of the user")
    skill(project / ".claude" / "skills", "shared")
    skill(home / ".agents" / "skills", "everywhere")
    skill(home / ".claude" / "skills", "broken", description="")
    found = places()
    assert list(found) == ["mine", "shared", "everywhere"]
    assert found["mine"].description == "of the project"


def test_links_are_followed_for_the_user_only(places, project, tmp_path):
    elsewhere = skill(tmp_path / "elsewhere", "linked")
    for folder in (project / ".helexa" / "skills", tmp_path / "home" / ".agents" / "skills"):
        folder.mkdir(parents=True)
        (folder / "linked").symlink_to(elsewhere)
    (found,) = places().values()
    assert found.folder == elsewhere
    (tmp_path / "home" / ".agents" / "skills" / "linked").unlink()
    assert places() == {}


async def test_the_tool_reads_a_skill_and_its_files_and_nothing_else(places, project):
    folder = skill(project / ".helexa" / "skills", "deploy", body="Run it.", **{"steps.md": "one, two"})
    (folder / "link").symlink_to("/etc/passwd")
    tool = SkillTool(places())

    async def read(**args):
        return (await (await tool.prepare(args, None)).run()).text

    assert (await read(name="deploy")).startswith(f"Run it.\n\nThe skill's folder is {folder}")
    assert "steps.md" in await read(name="deploy")
    assert await read(name="deploy", file="steps.md") == "one, two"
    for bad in ("../../../secret", "/etc/passwd", "link", "none", "\0"):
        with pytest.raises(ToolError):
            await read(name="deploy", file=bad)
    with pytest.raises(ToolError, match="the skills are deploy"):
        await read(name="nope")


def test_the_system_prompt_lists_names_and_descriptions_only(places, project):
    skill(project / ".helexa" / "skills", "deploy", "Deploys the site", body="Secret steps.")
    prompt = system_prompt.build(str(project), Mode.DEFAULT, Path("/plan"), skills=places().values())
    assert "- deploy: Deploys the site\n" in prompt
    assert "Secret steps" not in prompt


SCRIPT = """
[[turn]]
match = "go"
[[turn.reply]]
steps = [{ call = "skill", args = { name = "deploy" } }]
[[turn.reply]]
steps = [{ text = "done" }]
"""


async def test_the_model_reads_a_skill_without_asking_and_users_call_it(script, start, project):
    script(SCRIPT)
    skill(project / ".helexa" / "skills", "deploy", "Deploys the site", body="Run make deploy.")
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        await agent.until(lambda: '"deploy"' in json.dumps(agent.updates))
        await agent.prompt(session, "go")
        assert not agent.calls("session/request_permission")
        assert "Run make deploy." in json.dumps(agent.updates)
        agent.messages.clear()
        await agent.prompt(session, "/deploy to staging")
        assert "Follow the skill deploy" in agent.text()
        assert agent.text().rstrip().endswith("to staging")
