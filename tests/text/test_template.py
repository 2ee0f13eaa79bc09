from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from neuron.text.template import ChatTemplate, TemplateRefusedError

USER = [{"role": "user", "content": "hi"}]


def render(source, messages=USER, **options):
    return ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"}).render(messages, **options)


def test_template_sees_special_tokens_and_the_generation_prompt():
    assert render("{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}") == "<s></s>True"


def test_blocks_are_trimmed_and_loop_controls_work():
    source = "{% for m in documents %}\n  {% if m == 'b' %}{% break %}{% endif %}\n{{ m }}\n{% endfor %}"
    assert render(source, documents=["a", "b"]) == "a\n"


def test_tojson_escapes_no_html_and_no_letters():
    assert render("{{ tools | tojson }}", tools=[{"name": "<é> & 'x'"}]) == '[{"name": "<é> & \'x\'"}]'
    assert render("{{ tools | tojson(indent=1) }}", tools=[1]) == "[\n 1\n]"


def test_variables_override_the_templates_own_names():
    assert (
        render("{{ enable_thinking }}{{ bos_token }}", variables={"enable_thinking": 1, "bos_token": ""})
        == "1"
    )


def test_documents_reach_the_template_without_tools():
    source = "{{ documents[0].text }}{% if tools %}T{% endif %}"
    assert render(source, documents=[{"text": "doc"}]) == "doc"


def test_messages_pass_as_they_are_given():
    source = "{{ messages | tojson }}"
    message = {"role": "developer", "content": None, "tool_calls": [{"function": {"arguments": "{oops"}}]}
    assert json.loads(render(source, [message])) == [message]


def test_variables_are_those_that_the_template_reads_and_does_not_set():
    source = "{% set a = b %}{{ a }}{{ raise_exception }}{% for c in messages %}{{ c }}{% endfor %}"
    assert ChatTemplate(source, {}).variables == {"b", "messages"}


def test_strftime_now_formats_the_present():
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", render("{{ strftime_now('%Y-%m-%d') }}"))


def test_generation_blocks_are_plain_text():
    assert render("a{% generation %}b{% endgeneration %}c") == "abc"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
    ],
)
def test_refusal_of_a_template_has_its_reason(source, reason):
    with pytest.raises(TemplateRefusedError, match=reason):
        render(source)


READS = [
    "{{ m.plain }}{{ m.items }}{{ m.get('plain') }}{{ m['plain'] }}",
    "{{ m.missing is defined }}{{ m.missing }}",
    "{{ m.missing.deeper }}",
    "{{ m.__class__ }}",
    "{{ m.__dunder__ }}{{ m._private }}",
    "{{ m.update({}) }}",
    "{{ m.clear() }}",
    "{% for c in 'abc' %}{{ loop.index0 }}{{ loop.last }}{{ loop.nextitem }}{% endfor %}",
    "{% for c in 'abc' %}{{ loop._iterator }}{% endfor %}",
    "{% for c in 'abc' %}{{ loop.__class__ }}{% endfor %}",
    "{% set n = namespace(a=1, _b=2) %}{% set n.a = 3 %}{{ n.a }}{{ n.missing is defined }}",
    "{% set n = namespace(_b=2) %}{{ n._b }}",
    "{% set n = namespace(f='{0.__class__}'.format) %}{{ n.f(1) }}",
    "{{ m.text.format(m) }}",
    "{{ m | map(attribute='x') | list }}{{ [m] | map(attribute='plain') | first }}",
]


@pytest.mark.parametrize("source", READS)
def test_reading_gives_what_jinjas_own_sandbox_gives(source):
    values = {"plain": 1, "items": 2, "_private": 3, "__dunder__": 4, "text": "{0.__class__}"}
    source = "{% set m = messages[0] %}" + source

    def outcome(render: Callable[[], str]) -> str:
        try:
            return re.sub(" at 0x[0-9a-f]+", "", render())
        except (TemplateError, TemplateRefusedError) as error:
            return str(error)

    jinjas = ImmutableSandboxedEnvironment().from_string(source)
    expected = outcome(lambda: jinjas.render(messages=[values]))
    assert outcome(lambda: render(source, [values])) == expected


def test_broken_template_raises_when_it_is_compiled():
    with pytest.raises(TemplateSyntaxError):
        ChatTemplate("{% if %}", {}).compile()


CHATML = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
BEGUN = [*USER, {"role": "assistant", "content": "Well, "}]


def test_continued_message_stays_open():
    assert render(CHATML, BEGUN, continue_final=True) == "<user>hi</s><assistant>Well, "
    assert render(CHATML, BEGUN) == "<user>hi</s><assistant>Well,</s><assistant>"
    assert render(CHATML, BEGUN, add_generation_prompt=False) == "<user>hi</s><assistant>Well,</s>"


def test_repeated_words_do_not_mislead_a_continuation():
    twice = [{"role": "assistant", "content": "hi"}, *USER, {"role": "assistant", "content": "h"}]
    assert render(CHATML, twice, continue_final=True) == "<assistant>hi</s><user>hi</s><assistant>h"
    nothing = [*USER, {"role": "assistant", "content": ""}]
    assert render(CHATML, nothing, continue_final=True) == "<user>hi</s><assistant>"


def test_message_that_the_template_leaves_out_cannot_be_continued():
    with pytest.raises(TemplateRefusedError, match="final message"):
        render("{{ messages[0].content }}", BEGUN, continue_final=True)
