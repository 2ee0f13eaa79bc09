"""What a request for permission offers, and `/permissions`, which lists, adds and removes rules."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from acp_testing.process import choose

RUN = '[[turn]]\nmatch = "run"\n[[turn.reply]]\nsteps = [{ call = "shell", args = { command = "git --version && ls -l a" } }]\n[[turn.reply]]\nsteps = [{ text = "done" }]\n'
WRITE = '[[turn]]\nmatch = "write"\n[[turn.reply]]\nsteps = [{ call = "write", args = { path = "src/a", content = "x" } }]\n[[turn.reply]]\nsteps = [{ text = "done" }]\n'


async def test_at_most_one_option_of_each_kind_is_offered(script, start, project):
    script(RUN + WRITE)
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        await agent.prompt(session, "run")
        await agent.prompt(session, "write")
        asked = [m["params"]["options"] for m in agent.calls("session/request_permission")]
        assert len(asked) == 2
        for options in asked:
            assert max(Counter(option["kind"] for option in options).values()) == 1
        always = next(o["name"] for o in asked[1] if o["kind"] == "allow_always")
        assert always == f"Always allow edit `{project}/src/a` in this project"


async def test_the_option_by_kind_grants_the_narrowest_rule(script, start, project):
    script(RUN.replace("run", "a run") + RUN.replace("ls -l a", "ls -l b"))
    async with start() as agent:
        agent.answers["session/request_permission"] = choose("allow_always")
        await agent.initialize()
        session = await agent.new_session(project)
        await agent.prompt(session, "a run")
        await agent.prompt(session, "run")
        assert len(agent.calls("session/request_permission")) == 2
        agent.messages.clear()
        await agent.prompt(session, "/permissions")
        assert "/permissions allow shell prefix ls" in agent.text()


@pytest.fixture
async def talk(script, start, project):
    script(RUN + WRITE)
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)

        async def say(text):
            agent.messages.clear()
            assert await agent.prompt(session, text) == "end_turn"
            return agent.text(), len(agent.calls("session/request_permission"))

        yield say


async def test_rules_are_added_listed_and_removed(talk, project):
    assert (
        "Remembered: allow shell commands that start with `ls -l`"
        in (await talk("/permissions allow shell ls -l"))[0]
    )
    await talk("/permissions allow shell exact git --version")
    assert (await talk("run"))[1] == 0
    await talk("/permissions allow edit src")
    assert (await talk("write"))[1] == 0
    await talk('/permissions reject "server: tool" any')
    listed = (await talk("/permissions"))[0]
    assert re.findall(r"^\d\. .*", listed, re.MULTILINE) == [
        "1. allow shell commands that start with `ls -l`",
        "2. allow shell `git --version`",
        f"3. allow edit below {project}/src",
        "4. reject server: tool",
    ]
    assert "Removed: allow edit below" in (await talk("/permissions remove 3"))[0]
    assert (await talk("write"))[1] == 1
    await talk("/permissions forget")
    assert "No permissions are remembered" in (await talk("/permissions"))[0]


async def test_an_exact_rule_keeps_the_quotes_and_has_a_part_for_each_command(talk):
    said, _ = await talk("/permissions allow shell exact cat 'a  *' && make test")
    assert "Remembered: allow shell `cat 'a  *'`, shell `make test`." in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("remove 1", "'1' is no number of the list"),
        ("remove x", "is no number"),
        ("allow shell", "say what of shell"),
        ("allow shell under x", "shell has no 'under'"),
        ("allow fetch prefix x", "fetch has no 'prefix'"),
        ("allow edit any x", "edit any needs no value"),
        ("allow edit under", "edit under needs a value"),
        ("allow 'x", "No closing quotation"),
        ("grant x", "'grant' is none of its forms"),
    ],
)
async def test_what_is_no_rule_changes_nothing_and_says_how(talk, words, said):
    text, _ = await talk(f"/permissions {words}")
    assert said in text
    assert "/permissions allow shell git status" in text
    assert "No permissions are remembered" in (await talk("/permissions"))[0]
