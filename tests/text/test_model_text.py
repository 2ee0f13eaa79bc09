from __future__ import annotations

import json
import threading

import pytest

from cortex_site.base.answer_formats import REASONING_FORMATS, TOOL_FORMATS
from neuron.models.tiny import WEIGHTS_DIR
from neuron.text.directory import BrokenModelError, TextSettings, read_model_text, reasoning_formats
from neuron.text.events import CallStart, Content, ReasoningContent
from neuron.text.notations.known import NOTATIONS
from tests.stubs.model_dir import TEMPLATE, write_model
from tests.text.splitting import merged

USER = [{"role": "user", "content": "hi"}]


def test_directory_gives_end_tokens_capabilities_and_defaults(tmp_path):
    generation = {
        "do_sample": True,
        "temperature": 0.6,
        "top_k": 20,
        "eos_token_id": [5, 6],
        "max_new_tokens": 9,
    }
    text = read_model_text(write_model(tmp_path / "m", generation=generation))
    assert text.eos_ids == (5, 6, text.tokenizer.token_to_id("<|im_end|>"))
    assert text.capabilities == ["chat", "tools", "reasoning"]
    assert (text.defaults.temperature, text.defaults.top_k, text.defaults.max_tokens) == (0.6, 20, 9)


@pytest.mark.parametrize("key", ["bos_token_id", "eos_token_id"])
@pytest.mark.parametrize("value", ["2", 2.5, [[1]], {"a": 1}, 1 << 70])
def test_a_token_id_that_is_none_is_named_with_its_file(tmp_path, key, value):
    directory = write_model(tmp_path / "m")
    config = directory / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {key: value}))
    with pytest.raises(BrokenModelError) as raised:
        read_model_text(directory)
    assert str(config) in str(raised.value)
    assert key in str(raised.value)


def test_a_negative_id_names_no_token(tmp_path):
    directory = write_model(tmp_path / "m")
    config = directory / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"bos_token_id": -1}))
    assert read_model_text(directory).eos_ids


@pytest.mark.parametrize(
    ("generation", "temperature"),
    [
        ({}, 1.0),
        ({"do_sample": False, "temperature": 0.6}, 0.0),
        ({"temperature": 0.6}, 0.6),
        ({"do_sample": True}, 1.0),
    ],
)
def test_default_temperature_follows_generation_config(tmp_path, generation, temperature):
    assert (
        read_model_text(write_model(tmp_path / "m", generation=generation)).defaults.temperature
        == temperature
    )


def test_template_files_have_an_order(tmp_path):
    directory = write_model(tmp_path / "m", template="config")
    assert read_model_text(directory).template.render(USER).text == "config"
    (directory / "chat_template.json").write_text('{"chat_template": "json"}')
    assert read_model_text(directory).template.render(USER).text == "json"
    (directory / "chat_template.jinja").write_text("jinja")
    assert read_model_text(directory).template.render(USER).text == "jinja"


def test_an_empty_template_is_none(tmp_path, caplog):
    directory = write_model(tmp_path / "m", template=" \n")
    assert read_model_text(directory).template is None
    assert "an empty chat template" in caplog.text
    (directory / "chat_template.json").write_text('{"chat_template": "json"}')
    (directory / "chat_template.jinja").write_text("")
    assert read_model_text(directory).template.render(USER).text == "json"


NAMED = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "with tools"}]


def rendered(text, *, tools):
    return text.template_for(tools=tools).render(USER).text


@pytest.mark.parametrize("template", [NAMED, {"default": "plain", "tool_use": "with tools"}])
def test_of_several_templates_the_request_chooses(tmp_path, template):
    text = read_model_text(write_model(tmp_path / "m", template=template))
    assert (rendered(text, tools=False), rendered(text, tools=True)) == ("plain", "with tools")


def test_templates_stand_in_files_of_their_own_too(tmp_path):
    directory = write_model(tmp_path / "m", template="plain")
    (directory / "additional_chat_templates").mkdir()
    (directory / "additional_chat_templates" / "tool_use.jinja").write_text("with tools")
    text = read_model_text(directory)
    assert (rendered(text, tools=False), rendered(text, tools=True)) == ("plain", "with tools")
    (directory / "chat_template.jinja").write_text("of the file")
    assert rendered(read_model_text(directory), tools=False) == "of the file"


def test_an_only_template_serves_chats_of_both_kinds(tmp_path):
    text = read_model_text(write_model(tmp_path / "m", template=NAMED[1:]))
    assert (rendered(text, tools=False), rendered(text, tools=True)) == ("with tools", "with tools")


def test_a_setting_replaces_the_template(tmp_path):
    directory = write_model(tmp_path / "m", template=NAMED)
    (directory / "mine.jinja").write_text("{{ 'of a file' }}")
    for setting, wanted in (("{{ 'of a text' }}", "of a text"), ("mine.jinja", "of a file")):
        text = read_model_text(directory, TextSettings(chat_template=setting))
        assert (rendered(text, tools=False), rendered(text, tools=True)) == (wanted, wanted)
    with pytest.raises(BrokenModelError, match=r"missing\.jinja: cannot be read"):
        read_model_text(directory, TextSettings(chat_template="missing.jinja"))


@pytest.mark.parametrize(
    ("setting", "cause"),
    [
        ("{{ 1/0 }}", "renders no chat: ZeroDivisionError"),
        ("{{ raise_exception('Not for chats') }}", "renders no chat: Not for chats"),
        ("{{ messages.foo.bar }}", "renders no chat: 'list object' has no attribute 'foo'"),
        ("", "chat_template is empty"),
        (" \n", "chat_template is empty"),
    ],
)
def test_a_template_that_renders_nothing_is_refused_in_its_own_words(tmp_path, setting, cause):
    with pytest.raises(BrokenModelError, match=cause):
        read_model_text(write_model(tmp_path / "m"), TextSettings(chat_template=setting))


def test_a_setting_names_the_markers_of_thoughts(tmp_path):
    directory = write_model(tmp_path / "m")
    text = read_model_text(directory, TextSettings(reasoning_format="[THINK]"))
    assert run(text, "[THINK]a[/THINK]b")[1] == [ReasoningContent("a"), Content("b")]
    text = read_model_text(directory, TextSettings(reasoning_format="none"))
    assert run(text, "<think>a</think>b")[1] == [Content("<think>a</think>b")]


def test_settings_files_know_every_name():
    """A new notation, or new markers of thoughts, belong into `cortex_site.base.answer_formats` too."""
    assert set(TOOL_FORMATS) == NOTATIONS.keys()
    assert set(REASONING_FORMATS) == reasoning_formats().keys()


def test_a_model_without_template_has_no_chat(tmp_path):
    text = read_model_text(write_model(tmp_path / "m", template=None))
    assert text.template is None
    assert "chat" not in text.capabilities


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("config.json", "{", "not valid JSON"),
        ("config.json", "[]", "must hold a JSON object"),
        ("config.json", None, "cannot be read"),
        ("tokenizer.json", "{}", "not a tokenizer"),
        ("tokenizer.json", None, "missing"),
        ("generation_config.json", '{"temperature": "hot"}', "Expected `float | null`"),
        ("chat_template.jinja", "{% if %}", "line 1"),
        ("chat_template.json", "{", "not valid JSON"),
        ("tokenizer_config.json", '{"chat_template": [{"name": 1}]}', "templates with their names"),
        ("tokenizer_config.json", '{"chat_template": 3}', "templates with their names"),
    ],
)
def test_a_broken_file_is_named_with_its_cause(tmp_path, name, content, cause):
    directory = write_model(tmp_path / "m")
    path = directory / name
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(BrokenModelError, match=cause) as caught:
        read_model_text(directory)
    assert str(path) in str(caught.value)


def run(text, output, *, prompt="", **options):
    answer = text.answer(prompt, **options)
    events = [event for token in text.encode(output) for event in answer.feed(token)]
    return answer, merged(events + answer.finish())


def test_an_answer_goes_through_the_whole_chain(tmp_path):
    text = read_model_text(write_model(tmp_path / "m"))
    output = '<think>\nhm\n</think>\n\nok <tool_call>{"name":"f","arguments":{}}</tool_call><|im_end|>'
    answer, events = run(text, output, tools={})
    assert [type(event) for event in events[:3]] == [ReasoningContent, Content, CallStart]
    assert answer.has_calls
    assert answer.reasoning_tokens == len(text.encode("<think>\nhm\n</think>"))
    assert answer.tokens == len(text.encode(output))


def test_answer_to_a_prompt_that_opened_the_block_starts_inside(tmp_path):
    text = read_model_text(write_model(tmp_path / "m"))
    prompt = text.template.render(USER, variables={"enable_thinking": True}).text
    answer, events = run(text, "hm</think>ok", prompt=prompt)
    assert events == [ReasoningContent("hm"), Content("ok")]
    assert answer.reasoning_tokens == 3


def test_calls_are_text_without_tools(tmp_path):
    text = read_model_text(write_model(tmp_path / "m"))
    answer, events = run(text, "<tool_call>{}</tool_call>")
    assert events == [Content("<tool_call>{}</tool_call>")]
    assert not answer.has_calls


def test_a_stop_string_ends_the_answer_and_min_tokens_delays_it(tmp_path):
    text = read_model_text(write_model(tmp_path / "m"))
    answer, events = run(text, "aXbXc", stops=["X"])
    assert (events, answer.is_stopped, answer.tokens) == ([Content("a")], True, 2)
    answer, events = run(text, "aXbXc", stops=["X"], min_tokens=2)
    assert (events, answer.tokens) == ([Content("aXb")], 4)


def test_markers_that_are_special_tokens_stay_visible(tmp_path):
    directory = write_model(tmp_path / "m", template=TEMPLATE)
    raw = json.loads((directory / "tokenizer.json").read_text())
    for token in raw["added_tokens"]:
        token["special"] = True
    (directory / "tokenizer.json").write_text(json.dumps(raw))
    _, events = run(read_model_text(directory), "<think>a</think>b<|im_end|>")
    assert events == [ReasoningContent("a"), Content("b")]


def test_shipped_template_has_all_capabilities(tmp_path):
    template = (WEIGHTS_DIR / "chat_template.jinja").read_text()
    assert read_model_text(write_model(tmp_path / "m", template=template)).capabilities == [
        "chat",
        "tools",
        "reasoning",
    ]


def test_other_threads_run_while_a_long_text_is_tokenized(tmp_path):
    text = read_model_text(write_model(tmp_path / "m"))
    long = "some words " * 200_000
    tokenizing = threading.Thread(target=text.encode, args=[long])
    steps = 0
    tokenizing.start()
    while tokenizing.is_alive():
        steps += 1
    assert steps > 1_000  # a thread that kept the interpreter's lock would have let a few through
