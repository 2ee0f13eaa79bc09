"""What probing finds out about thoughts and their switches, and the bounds of probing."""

from __future__ import annotations

import pytest

from neuron.text.template import ChatTemplate, TemplateRefusedError
from neuron.text.traits.prober import MAX_RENDERS, Prober
from neuron.text.traits.template_traits import UnknownEffortError
from tests.text import templates
from tests.text.chats import NEXT, USER, called, fitted, message, result, traits

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


@pytest.mark.parametrize("effort", ["bogus", "", " ", "High", "no"])
@pytest.mark.parametrize("name", ["LEVELS", "TOGGLE", "BUDGET", "MODE", "VERBATIM"])
def test_a_word_that_is_no_effort_is_refused_with_those_that_are(name, effort):
    template = fitted(getattr(templates, name))
    with pytest.raises(UnknownEffortError, match="none, minimal, low, medium, high, xhigh, max") as caught:
        template.settings(effort=effort)
    for known in caught.value.known:
        template.render([USER], variables=template.settings(effort=known)[0])


def test_a_template_that_takes_any_word_gets_it():
    template = fitted(templates.OPEN_LEVELS)
    assert template.settings(effort="bogus") == ({"reasoning_effort": "bogus"}, ())
    with pytest.raises(UnknownEffortError):
        template.settings(effort="")


def test_verbosity_is_for_templates_that_read_it():
    reading = fitted(templates.template(before="{{ verbosity }}"))
    assert reading.settings(verbosity="low") == ({"verbosity": "low"}, ())
    assert fitted(templates.PLAIN).settings(verbosity="low") == ({}, ("verbosity",))


# --- bounds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "{{ 1 / 0 }}",
        "{{ raise_exception('never') }}",
        "{{ messages[9].x.y }}",
        "{{ [] | first | int }}",
    ],
)
def test_a_template_that_takes_nothing_is_refused_with_its_first_reason(source):
    with pytest.raises(TemplateRefusedError) as of_probing:
        traits(source)
    with pytest.raises(TemplateRefusedError) as of_rendering:
        ChatTemplate(source, {}).render([USER])
    assert str(of_probing.value) == str(of_rendering.value)


@pytest.mark.parametrize("source", ["", "{{ ''.__class__ }}"])
def test_a_template_that_prints_nothing_is_probed_all_the_same(source):
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
