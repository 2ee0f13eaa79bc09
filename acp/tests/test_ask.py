"""Questions of the model to the user: in a form where the client has forms, else as text that ends the turn."""

from __future__ import annotations

import json

import pytest
from acp_testing.fakes import ToolHarness
from acp_testing.process import FULL_CLIENT, HOLD, fold, prompt, without_user

from helexa_acp.tools.errors import ToolError

FORMS = {**FULL_CLIENT, "elicitation": {"form": {}}}
SCRIPT = """
[[turn]]
match = "go"
[[turn.reply]]
steps = [{ call = "ask", args = { questions = [
  { question = "Which colour?", options = ["red", "blue"] },
  { question = "Which sizes?", options = ["S", "M"], several = true },
  { question = "Why?" },
] } }]
[[turn.reply]]
steps = [{ text = "Thanks." }]
"""


@pytest.fixture
def run(script, start, project):
    async def run(capabilities, answer=None):
        script(SCRIPT)
        async with start() as agent:
            agent.answers["elicitation/create"] = lambda _: answer
            await agent.initialize(capabilities)
            session = await agent.new_session(project)
            assert await agent.prompt(session, "go") == "end_turn"
            live = fold(agent.updates)
            asked = agent.calls("elicitation/create")
            agent.messages.clear()
            await agent.request("session/load", sessionId=session, cwd=str(project), mcpServers=[])
            assert dict(without_user(fold(agent.updates))) == dict(live)
            text = agent.text()
            assert await agent.prompt(session, "and then?") == "end_turn"
            return text, json.dumps(live), asked

    return run


async def test_a_form_has_a_field_for_each_question_and_for_other_answers(run):
    content = {"answer1": "red", "answer2": ["S", "M"], "other2": "and L", "answer3": "I like it"}
    text, shown, (asked,) = await run(FORMS, {"action": "accept", "content": content})
    schema = asked["params"]["requestedSchema"]
    assert schema["properties"]["answer1"] == {
        "type": "string",
        "title": "Which colour?",
        "enum": ["red", "blue"],
    }
    assert schema["properties"]["answer2"]["items"] == {"type": "string", "enum": ["S", "M"]}
    assert schema["required"] == ["answer3"]
    assert "other1" in schema["properties"]
    assert "other3" not in schema["properties"]
    assert asked["params"]["toolCallId"] in shown
    assert "Which colour?\\nred" in shown
    assert "Which sizes?\\nS, M; and L" in shown
    assert "Why?\\nI like it" in shown
    assert text == "Thanks."


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"action": "decline"}, "The user declined to answer."),
        ({"action": "cancel"}, "The user dismissed the questions."),
        ({"action": "accept"}, "Which colour?\\n(no answer)"),
        (
            {"action": "accept", "content": {"answer1": 3, "answer2": [4], "answer9": "x"}},
            "Which sizes?\\n(no answer)",
        ),
    ],
)
async def test_what_is_no_answer_is_told_as_that(run, answer, said):
    text, shown, _ = await run(FORMS, answer)
    assert said in shown
    assert text == "Thanks."


@pytest.mark.parametrize(("capabilities", "answer"), [({}, None), (FORMS, ValueError("no form"))])
async def test_without_a_form_the_questions_are_text_and_end_the_turn(run, capabilities, answer):
    text, shown, _ = await run(capabilities, answer)
    assert text.startswith("**Which colour?**\n- red\n- blue\n\n**Which sizes?**")
    assert "Thanks." not in shown


async def test_cancelling_the_turn_withdraws_the_form(script, start, project):
    script(SCRIPT)
    async with start() as agent:
        agent.answers["elicitation/create"] = lambda _: HOLD
        await agent.initialize(FORMS)
        session = await agent.new_session(project)
        turn = agent.begin("session/prompt", prompt(session, "go"))
        await agent.until(lambda: agent.calls("elicitation/create"))
        agent.notify("session/cancel", sessionId=session)
        assert await agent.result(turn) == {"stopReason": "cancelled"}
        assert agent.calls("$/cancel_request")[0]["params"] == {
            "requestId": agent.calls("elicitation/create")[0]["id"]
        }


@pytest.mark.parametrize(
    ("questions", "said"),
    [
        ([], "1 to 4"),
        ([{"question": "x"}] * 5, "1 to 4"),
        ([{"question": " "}], "question is empty"),
        ([{"question": "x", "options": ["a", "a"]}], "given twice"),
        ([{"question": "x", "options": [" "]}], "none of them empty"),
        ([{"question": "x", "options": [str(n) for n in range(11)]}], "at most 10"),
    ],
)
async def test_bad_questions_are_refused(project, questions, said):
    with pytest.raises(ToolError, match=said):
        await ToolHarness(project).prepare("ask", questions=questions)
