"""What probing finds out about templates, and how chats are made fit for them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from neuron.text.directory import read_model_text
from neuron.text.template import ChatTemplate
from neuron.text.traits.fitted_template import ArgumentsRefusedError, FittedTemplate
from tests.stubs.model_dir import byte_tokenizer, write_model
from tests.text import templates
from tests.text.chats import (
    ANSWER,
    DEVELOPER,
    NEXT,
    SYSTEM,
    TOOL,
    USER,
    called,
    fitted,
    message,
    result,
    traits,
)

# --- what is left alone ---------------------------------------------------------------------------------

ROUND = [USER, called("call_1"), result("call_1"), ANSWER]
TAKEN = {
    "PLAIN": [
        [SYSTEM, DEVELOPER, USER, ANSWER, SYSTEM, USER, NEXT],
        ROUND,
        [USER, called("a", "b"), result("a")],
    ],
    "STRICT": [[SYSTEM, USER, ANSWER, NEXT], [SYSTEM, *ROUND]],
    "HEAD_ONLY": [[SYSTEM, USER, USER], [DEVELOPER, *ROUND]],
    "DROPS_DEVELOPER": [[SYSTEM, SYSTEM, USER], ROUND],
    "DROPS_SECOND_SYSTEM": [[SYSTEM, DEVELOPER, USER], ROUND],
    "NO_SYSTEM": [[USER, USER], ROUND],
    "SINGLE_CALL": [ROUND],
    "NINE_IDS": [[USER, called("abcdefghi"), result("abcdefghi")]],
    "INDEXED_IDS": [[USER, called("functions.weather:0"), result("functions.weather:0")]],
    "NEVER_PRINTS_CALLS": [ROUND],
    "TOGGLE": [[USER]],
    "VERBATIM": [[USER]],
    "THINKING_PART": [[USER, message("assistant", [{"type": "thinking", "thinking": "hm"}]), NEXT]],
}


@pytest.mark.parametrize(("name", "chat"), [(name, chat) for name in TAKEN for chat in TAKEN[name]])
@pytest.mark.parametrize("tools", [None, [TOOL]])
def test_what_a_template_takes_is_rendered_as_transformers_does(name, chat, tools):
    source = getattr(templates, name)
    chat = [_with_objects(entry) for entry in chat]
    reference = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer()).apply_chat_template(
        chat, tools=tools, chat_template=source, tokenize=False, add_generation_prompt=True
    )
    assert fitted(source).render(chat, tools=tools) == (reference, ())


def _with_objects(entry):
    calls = [
        call | {"function": call["function"] | {"arguments": json.loads(call["function"]["arguments"])}}
        for call in entry.get("tool_calls", ())
    ]
    return entry | {"tool_calls": calls} if calls else entry


@pytest.mark.parametrize("variable", ["enable_thinking", "thinking", "reasoning_effort"])
def test_variables_reach_the_template_as_transformers_gives_them(variable):
    source = templates.template(before=f"{{{{ {variable} }}}}")
    rendered = fitted(source).render([USER], variables={variable: "x"})
    assert rendered.text.startswith("x")


# --- messages -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "chat", "text", "changes"),
    [
        ("HEAD_ONLY", [SYSTEM, DEVELOPER, USER], "[system]be kind\n\nbe brief[user]hi", ["system-joined"]),
        ("HEAD_ONLY", [SYSTEM, USER, ANSWER, SYSTEM, NEXT],
         "[system]be kind[user]hi[assistant]hello[user]be kind\n\nand then?", ["system-moved"]),
        ("HEAD_ONLY", [USER, ANSWER, DEVELOPER], "[user]hi[assistant]hello[user]be brief", ["system-moved"]),
        ("HEAD_ONLY", [USER, SYSTEM, ANSWER], "[user]hi[user]be kind[assistant]hello", ["system-moved"]),
        ("STRICT", [SYSTEM, DEVELOPER, USER], "[system]be kind\n\nbe brief[user]hi",
         ["developer-as-system", "system-joined"]),
        ("STRICT", [USER, NEXT, ANSWER, ANSWER, USER],
         "[user]hi\n\nand then?[assistant]hello\n\nhello[user]hi", ["turns-joined"]),
        ("STRICT", [USER, SYSTEM, NEXT], "[user]hi\n\nbe kind\n\nand then?",
         ["system-moved", "turns-joined"]),
        ("DROPS_DEVELOPER", [DEVELOPER, USER], "[system]be brief[user]hi", ["developer-as-system"]),
        ("DROPS_SECOND_SYSTEM", [SYSTEM, SYSTEM, USER], "[system]be kind\n\nbe kind[user]hi",
         ["system-joined"]),
        ("NO_SYSTEM", [SYSTEM, USER], "[user]be kind\n\nhi", ["system-moved"]),
        ("NO_SYSTEM", [SYSTEM, DEVELOPER, USER], "[user]be kind\n\nbe brief\n\nhi",
         ["developer-as-system", "system-joined", "system-moved"]),
        ("NO_SYSTEM", [SYSTEM], "[user]be kind", ["system-moved"]),
        ("PARTS", [USER], "[user]hi", []),
        ("PARTS", [message("user", [{"type": "text", "text": word} for word in "ab"])], "[user]ab", []),
        ("NEEDS_A_LIST", [USER], "[user]hi", []),
        ("NO_RESULTS", [USER, ANSWER, result("x")], "[user]hi[assistant]hello[user]rain",
         ["results-as-user"]),
    ],
)  # fmt: skip
def test_messages_are_made_fit_for_their_template(name, chat, text, changes):
    rendered = fitted(getattr(templates, name)).render(chat, add_generation_prompt=False)
    assert (rendered.text, list(rendered.changes)) == (text, changes)


def test_a_user_turn_right_behind_a_result_is_parted_from_it():
    chat = [USER, called("c"), result("c"), NEXT]
    rendered = fitted(templates.STRICT).render(chat, add_generation_prompt=False)
    assert rendered.text.endswith("[tool]rain[assistant][user]and then?")
    assert rendered.changes == ("turns-parted",)


def test_a_user_turn_is_joined_to_the_result_where_no_empty_answer_is_taken():
    empty = templates.refused("m.role == 'assistant' and not m.content and not m.tool_calls", "Say something")
    source = templates.template(before=templates.ALTERNATING, in_turn=empty)
    rendered = fitted(source).render([USER, called("c"), result("c"), NEXT], add_generation_prompt=False)
    assert rendered.text.endswith("[tool]rain\n\nand then?")
    assert rendered.changes == ("turns-parted",)


def test_tools_that_stand_beside_a_system_message_get_one():
    template = fitted(templates.TOOLS_BESIDE_SYSTEM)
    assert template.render([USER], tools=[TOOL], add_generation_prompt=False).changes == ("system-added",)
    assert "weather" in template.render([USER], tools=[TOOL]).text
    assert template.render([SYSTEM, USER], tools=[TOOL]).changes == ()
    assert template.render([USER]).changes == ()


@given(roles=st.lists(st.sampled_from(["system", "developer", "user", "assistant", "tool"]), max_size=8))
@pytest.mark.parametrize("name", ["STRICT", "HEAD_ONLY", "NO_SYSTEM", "DROPS_SECOND_SYSTEM", "NO_RESULTS"])
def test_no_text_is_lost_whatever_the_order(name, roles):
    chat = [message("user", "w0"), *(message(role, f"w{i}") for i, role in enumerate(roles, 1))]
    if name == "STRICT":  # a result without a call makes two turns of the user's there
        chat = [entry for entry in chat if entry["role"] != "tool"]
    text = FITTED[name].render(chat).text
    assert all(entry["content"] in text for entry in chat)


FITTED = {
    name: fitted(getattr(templates, name))
    for name in ("STRICT", "HEAD_ONLY", "NO_SYSTEM", "DROPS_SECOND_SYSTEM", "NO_RESULTS")
}


def test_the_final_message_can_be_continued_in_every_form():
    chat = [USER, message("assistant", "well, ", reasoning="hm")]
    for name in ("PLAIN", "PARTS", "THINKING_PART"):
        assert fitted(getattr(templates, name)).render(chat, continue_final=True).text.endswith("well, ")


# --- calls ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "form", "has_null_content", "ids", "max_calls"),
    [
        ("PLAIN", "object", False, "any", None),
        ("SINGLE_CALL", "object", False, "any", 1),
        ("NINE_IDS", "object", False, "alphanumeric9", None),
        ("INDEXED_IDS", "object", False, "indexed", None),
        ("TEXT_ARGUMENTS", "text", False, "any", None),
        ("REPR_ARGUMENTS", "text", False, "any", None),
        ("NULL_CONTENT", "object", True, "any", None),
        ("PARTS", "object", False, "any", None),
    ],
)
def test_the_form_of_calls_is_the_one_that_reads_back(name, form, has_null_content, ids, max_calls):
    found = traits(getattr(templates, name))
    assert (found.notation, found.arguments, found.wants_null_content) == ("hermes", form, has_null_content)
    assert (found.ids, found.max_calls) == (ids, max_calls)


@pytest.mark.parametrize("arguments", ['{"n": "Zürich"}', {"n": "Zürich"}])
@pytest.mark.parametrize("name", ["PLAIN", "TEXT_ARGUMENTS", "REPR_ARGUMENTS", "NULL_CONTENT", "PARTS"])
def test_arguments_may_come_as_text_or_object(name, arguments):
    calling = called("c")
    calling["tool_calls"][0]["function"]["arguments"] = arguments
    text = fitted(getattr(templates, name)).render([USER, calling]).text
    assert '<tool_call>{"name": "weather", "arguments": {"n": "Zürich"}}</tool_call>' in text


@pytest.mark.parametrize(
    "arguments", ["", "null", "3", "[1]", "{oops", "NaN", '{"a": 1e999}', '"\\ud800"', None, {}]
)
@pytest.mark.parametrize("name", ["PLAIN", "TEXT_ARGUMENTS"])
def test_odd_arguments_are_rendered_and_can_be_encoded(name, arguments):
    calling = called("c")
    calling["tool_calls"][0]["function"]["arguments"] = arguments
    assert fitted(getattr(templates, name)).render([USER, calling]).text.encode()


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ("not json", {"arguments": "not json"}),
        ('"text"', {"arguments": '"text"'}),
        ('{"a":1', {"arguments": '{"a":1'}),
        ("3", {"arguments": "3"}),
        ("null", {}),
        ("[]", {}),
        (" ", {}),
    ],
)
@pytest.mark.parametrize("pairs", ["c.function.arguments.items()", "c.function.arguments | items"])
def test_arguments_cut_short_become_an_object_where_the_template_wants_one(pairs, arguments, written):
    """Such a call comes back at every turn, so that a refusal would end the session."""
    value = f"{{% for k, v in {pairs} %}}<arg_key>{{{{ k }}}}</arg_key><arg_value>{{{{ v }}}}</arg_value>"
    call = f"<tool_call>{{{{ c.function.name }}}}{value}{{% endfor %}}</tool_call>"
    template = fitted(templates.template(calls=f"{{% for c in m.tool_calls or [] %}}{call}{{% endfor %}}"))
    calling, whole = called("c"), called("c")
    calling["tool_calls"][0]["function"]["arguments"] = arguments
    whole["tool_calls"][0]["function"]["arguments"] = written
    rendered = template.render([USER, calling])
    assert rendered.text == template.render([USER, whole]).text
    assert "arguments-wrapped" in rendered.changes


def test_arguments_that_fit_in_no_form_are_named():
    template = fitted(templates.template(calls="{{ raise_exception('no calls') if m.tool_calls }}"))
    calling = called("b", "c")
    calling["tool_calls"][1]["function"]["arguments"] = "{"
    with pytest.raises(ArgumentsRefusedError, match=r"is no JSON object \(no calls\)") as caught:
        template.render([USER, calling])
    assert caught.value.place == "messages[1].tool_calls[1].function.arguments"


def test_calls_that_must_not_stand_together_become_successive_turns():
    chat = [USER, called("a", "b", content="two"), result("b", "second"), result("a", "first"), NEXT]
    rendered = fitted(templates.SINGLE_CALL).render(chat, add_generation_prompt=False)
    calls = [f'<tool_call>{{"name": "weather", "arguments": {{"n": {n}}}}}</tool_call>' for n in (0, 1)]
    assert rendered.text == (
        f"[user]hi[assistant]two{calls[0]}[tool]first[assistant]{calls[1]}[tool]second[user]and then?"
    )
    assert rendered.changes == ("calls-split",)


IDS = st.text(max_size=12)


@given(
    ids=st.lists(IDS.filter(bool), min_size=1, max_size=6, unique=True),
    name=st.sampled_from(["NINE_IDS", "INDEXED_IDS"]),
)
def test_ids_of_other_models_get_the_shape_that_a_template_takes(ids, name):
    of_call = "{% for c in m.tool_calls or [] %}<{{ c.id }}>{% endfor %}"
    of_result = "{% if m.tool_call_id %}({{ m.tool_call_id }}){% endif %}"
    source = templates.template(turn=of_call, calls=of_result)
    template = FittedTemplate(ChatTemplate(source, {}), ID_TRAITS[name])
    text = template.render([USER, called(*ids), *map(result, reversed(ids))]).text
    of_calls = [part.partition(">")[0] for part in text.split("<")[1:]]
    of_results = [part.partition(")")[0] for part in text.split("(")[1:]]
    assert of_results == of_calls[::-1]
    assert len(set(of_calls)) == len(ids)


ID_TRAITS = {name: traits(getattr(templates, name)) for name in ("NINE_IDS", "INDEXED_IDS")}


def test_ids_stay_the_same_from_turn_to_turn_and_fitting_ones_are_kept():
    template = fitted(templates.NINE_IDS)
    chat = [USER, called("toolu_01A"), result("toolu_01A"), called("abcdefgh9"), result("abcdefgh9")]
    first = template.render(chat[:3], add_generation_prompt=False)
    second = template.render(chat, add_generation_prompt=False)
    assert second.text.startswith(first.text)
    assert first.changes == ("ids-mapped",)
    assert template.render([USER, *chat[3:]]).changes == ()


def test_calls_and_results_without_ids_belong_together_in_order():
    chat = [USER, called("", ""), message("tool", "a"), message("tool", "b")]
    rendered = fitted(templates.NINE_IDS).render(chat)
    assert rendered.changes == ("ids-mapped",)


@pytest.mark.parametrize(
    ("source", "notation"),
    [
        (templates.NEVER_PRINTS_CALLS, "hermes"),  # told in its instructions
        (
            templates.template(calls="", tools="{{ tools | tojson if tools }}"),
            "hermes",
        ),  # tokens of one family
        (templates.template(calls=" see {{ m.tool_calls }}"), None),  # printed, and in no known notation
        (templates.template(tools=""), None),  # the model never sees tools
    ],
)
def test_a_template_that_prints_no_calls_is_judged_by_what_it_tells(source, notation):
    assert traits(source).notation == notation


def test_markers_in_prose_choose_no_notation(tmp_path):
    """A substring search would have taken this for Hermes' notation."""
    source = templates.template(
        before="{# never write <tool_call> #}",
        calls="{% for c in m.tool_calls or [] %}{{ c.function.name }} {{ c.function.arguments }}{% endfor %}",
    )
    assert read_model_text(write_model(tmp_path / "m", template=source)).notation is None
