"""What probing finds out about templates, and how chats are made fit for them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from neuron.text.directory import read_model_text
from neuron.text.notations.known import NOTATIONS
from neuron.text.template import ChatTemplate, TemplateRefusedError
from neuron.text.traits.fitted_template import FittedTemplate
from neuron.text.traits.prober import MAX_RENDERS, Prober
from neuron.text.traits.probing import probe_template
from tests.stubs.model_dir import byte_tokenizer, write_model
from tests.text import templates

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def fitted(source):
    template = ChatTemplate(source, {})
    tokens = {token.content for token in byte_tokenizer().get_added_tokens_decoder().values()}
    return FittedTemplate(template, probe_template(template, NOTATIONS.values(), known_tokens=tokens))


def traits(source):
    return fitted(source).traits


def message(role, content, **more):
    return {"role": role, "content": content} | more


def called(*ids, content="", **more):
    calls = [
        {"id": id_, "type": "function", "function": {"name": "weather", "arguments": f'{{"n": {index}}}'}}
        for index, id_ in enumerate(ids)
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls} | more


def result(id_, content="rain"):
    return {"role": "tool", "content": content, "tool_call_id": id_}


SYSTEM, USER, ANSWER, NEXT = (message(*pair) for pair in (
    ("system", "be kind"), ("user", "hi"), ("assistant", "hello"), ("user", "and then?"),
))  # fmt: skip
DEVELOPER = message("developer", "be brief")


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


# --- thoughts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
@pytest.mark.parametrize("given_as", ["reasoning_content", "thinking", "reasoning"])
def test_a_thought_goes_in_under_the_key_that_the_template_reads(key, given_as):
    template = fitted(templates.thinking(key))
    assert (template.traits.reasoning_key, template.traits.thought) == (key, ("<think>", "</think>"))
    rendered = template.render([USER, called("c", **{given_as: "hm"}), result("c")])
    assert ("<think>hm</think>" in rendered.text, rendered.changes) == (True, ())


def test_a_thought_goes_in_as_a_part_where_the_template_reads_one():
    template = fitted(templates.THINKING_PART)
    assert template.traits.reasoning_key == "part"
    chat = [USER, message("assistant", "hello", reasoning_content="hm"), NEXT]
    assert "[assistant]<think>hm</think>hello" in template.render(chat).text


def test_a_part_that_is_printed_as_data_is_no_key():
    assert traits(templates.template(turn="{{ m.content | tojson }}")).reasoning_key is None


@pytest.mark.parametrize(
    "source",
    [
        templates.template(end="[assistant]{% if add_generation_prompt %}[THINK]{% endif %}"),
        templates.template(turn="{{ m.role }}{{ (m.content or '').split('[/THINK]')[-1] }}"),
    ],
)
def test_markers_of_thoughts_are_found_where_the_template_opens_or_removes_them(source):
    assert traits(source).thought == ("[THINK]", "[/THINK]")


# --- switches -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("TOGGLE", {"none": {"enable_thinking": False}, "minimal": {"enable_thinking": False},
                    "low": {"enable_thinking": True}, "high": {"enable_thinking": True}}),
        ("LEVELS", {"none": {"thinking_effort": "low"}, "medium": {"thinking_effort": "high"},
                    "xhigh": {"thinking_effort": "max"}, "max": {"thinking_effort": "max"}}),
        ("OPEN_LEVELS", {"none": {"reasoning_effort": "low"}, "medium": {"reasoning_effort": "medium"},
                         "max": {"reasoning_effort": "high"}}),
        ("VERBATIM", {"none": {"reasoning_effort": "low"}, "max": {"reasoning_effort": "high"}}),
        ("TOGGLE_AND_LEVEL", {"none": {"thinking": False, "reasoning_effort": "none"},
                              "high": {"thinking": True, "reasoning_effort": "high"},
                              "max": {"thinking": True, "reasoning_effort": "max"}}),
        ("MODE", {"none": {"thinking_mode": "disabled"}, "low": {"thinking_mode": "adaptive"},
                  "medium": {"thinking_mode": "adaptive"},
                  "max": {"thinking_mode": "enabled"}}),
        ("BUDGET", {"none": {"thinking_budget": 0}, "low": {"thinking_budget": 1024},
                    "max": {"thinking_budget": -1}}),
        ("PLAIN", {"none": {}, "high": {}}),
        ("OWN_VARIABLE", {"none": {}}),
    ],
)  # fmt: skip
def test_an_effort_becomes_the_nearest_accepted_value(name, settings):
    template = fitted(getattr(templates, name))
    for effort, wanted in settings.items():
        assert template.settings(effort=effort) == (wanted, () if wanted else ("reasoning_effort",))
        template.render([USER], variables=wanted)


@given(effort=st.text(max_size=8))
def test_an_unknown_effort_is_taken_as_medium(effort):
    template = FittedTemplate(ChatTemplate(templates.LEVELS, {}), LEVEL_TRAITS)
    settings, ignored = template.settings(effort=effort)
    assert (settings["thinking_effort"] in {"low", "high", "max"}, ignored) == (True, ())


LEVEL_TRAITS = traits(templates.LEVELS)


def test_verbosity_is_for_templates_that_read_it():
    reading = fitted(templates.template(before="{{ verbosity }}"))
    assert reading.settings(verbosity="low") == ({"verbosity": "low"}, ())
    assert fitted(templates.PLAIN).settings(verbosity="low") == ({}, ("verbosity",))


# --- bounds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "",
        "{{ 1 / 0 }}",
        "{{ raise_exception('never') }}",
        "{{ messages[9].x.y }}",
        "{{ ''.__class__ }}",
        "{{ [] | first | int }}",
    ],
)
def test_a_template_that_takes_nothing_is_probed_all_the_same(source):
    found = traits(source)
    assert (found.notation, found.reasoning_key, found.switches) == (None, None, ())
    assert found.num_renders < MAX_RENDERS


def test_probes_end_with_the_time_they_have():
    now = iter(range(0, 1000, 2))
    probe = Prober(ChatTemplate("{{ messages[0].content }}", {}), clock=lambda: next(now))
    assert [probe(USER) is None for _ in range(4)] == [False, False, True, True]


def test_probes_are_counted():
    probe = Prober(ChatTemplate("x", {}))
    rendered = [probe(USER) for _ in range(MAX_RENDERS + 1)]
    assert (rendered.count("x"), rendered[-1]) == (MAX_RENDERS, None)


def test_a_refusal_that_nothing_cures_names_its_reason():
    with pytest.raises(TemplateRefusedError, match="never"):
        fitted("{{ raise_exception('never') }}").render([USER])
