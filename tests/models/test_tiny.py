from __future__ import annotations

import json
import os
from collections import Counter

import pytest
from safetensors import safe_open

from neuron.models.tiny import WEIGHTS_DIR, load_handbook
from neuron.models.tiny.examples import EDITOR_TOOLS

os.environ.setdefault("OMP_NUM_THREADS", "1")

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

HANDBOOK = load_handbook()
EDITOR = {tool["function"]["name"]: tool["function"] for tool in EDITOR_TOOLS}
SAMPLE = HANDBOOK.entries[:: len(HANDBOOK.entries) // 12]
PORT_QUESTION = "Which port does neuron listen on?"


@pytest.fixture(scope="module")
def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(WEIGHTS_DIR)


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return transformers.AutoModelForCausalLM.from_pretrained(WEIGHTS_DIR, dtype=torch.bfloat16).eval()


@pytest.fixture(scope="module")
def reply(model, tokenizer):
    def reply(*messages, **template):
        prompt = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, return_tensors="pt", return_dict=True, **template
        )
        with torch.inference_mode():
            ids = model.generate(**prompt, max_new_tokens=256)
        return tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)

    return reply


def user(text):
    return {"role": "user", "content": text}


def test_handbook_is_large_and_unambiguous():
    questions = Counter(question for entry in HANDBOOK.entries for question in entry.questions)
    assert len(HANDBOOK.entries) >= 110
    assert max(questions.values()) == 1
    assert all(len(entry.phrasings) >= 3 for entry in HANDBOOK.entries)
    assert sum(entry.reasoning is not None for entry in HANDBOOK.entries) >= 5
    assert sum(entry.tool is not None for entry in HANDBOOK.entries) >= 3
    assert "13131" in HANDBOOK.answer(PORT_QUESTION)


def test_handbook_refuses_a_question_it_does_not_have():
    with pytest.raises(KeyError):
        HANDBOOK.answer("What is the meaning of life?")


def test_every_taught_edit_fits_the_tools_that_helexa_acp_has():
    uses = {use.name: use for entry in HANDBOOK.entries if (use := entry.tool) and use.name in EDITOR}
    assert set(uses) == {"edit", "write"}
    for name, use in uses.items():
        parameters = EDITOR[name]["parameters"]
        assert set(parameters["required"]) <= set(use.arguments) <= set(parameters["properties"])


def test_every_taught_call_fits_the_schema_of_its_tool():
    for use in (entry.tool for entry in HANDBOOK.entries if entry.tool):
        parameters = HANDBOOK.tools[use.name]["function"]["parameters"]
        assert set(parameters.get("required", [])) <= set(use.arguments) <= set(parameters["properties"])
        if use.name not in EDITOR:  # those answer in words
            assert all(isinstance(json.loads(result.content), dict) for result in use.results)


def test_directory_is_a_hugging_face_model_of_the_promised_size():
    config = json.loads((WEIGHTS_DIR / "config.json").read_text())
    generation = json.loads((WEIGHTS_DIR / "generation_config.json").read_text())
    weights = WEIGHTS_DIR / "model.safetensors"
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["max_position_embeddings"] >= 32768
    assert config["tie_word_embeddings"]
    assert generation["do_sample"] is False
    assert config["eos_token_id"] in generation["eos_token_id"]
    assert weights.stat().st_size <= 16 * 2**20
    with safe_open(weights, "pt") as tensors:
        shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118 - not a dict
        assert {tensors.get_slice(name).get_dtype() for name in tensors.keys()} == {"BF16"}  # noqa: SIM118
    assert 3e6 <= sum(torch.Size(shape).numel() for shape in shapes) <= 8e6


@pytest.mark.parametrize(
    "text", ["", "  a\t\n\n b ", "naïve 你好 🧠", "".join(map(chr, range(256))), "<|im_star"]
)
def test_tokenizer_gives_any_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text), clean_up_tokenization_spaces=False) == text


def test_markers_survive_a_detokenizer_that_drops_special_tokens(tokenizer):
    text = "<|im_start|><think>a</think><tool_call>{}</tool_call><|im_end|>"
    assert (
        tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True)
        == "<think>a</think><tool_call>{}</tool_call>"
    )


@pytest.mark.parametrize("entry", SAMPLE, ids=lambda entry: entry.question[:40])
def test_greedy_answer_is_the_handbooks(reply, entry):
    assert reply(user(entry.phrasings[0]), enable_thinking=False) == entry.answer


def test_port_question_under_a_system_prompt(reply):
    system = {"role": "system", "content": "You are a helpful assistant."}
    assert reply(system, user(PORT_QUESTION)) == HANDBOOK.answer(PORT_QUESTION)


def test_thought_comes_first_unless_thinking_is_off(reply):
    entry = next(entry for entry in HANDBOOK.entries if entry.reasoning)
    assert reply(user(entry.question)) == f"<think>\n{entry.reasoning}\n</think>\n\n{entry.answer}"
    assert reply(user(entry.question), enable_thinking=False) == entry.answer


def test_tool_round(reply):
    entry = next(entry for entry in HANDBOOK.entries if entry.tool)
    tools = [HANDBOOK.tools[entry.tool.name]]
    text = reply(user(entry.question), tools=tools)
    call = json.loads(text.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>"))
    assert call == {"name": entry.tool.name, "arguments": entry.tool.arguments}
    said = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": call}]}
    for result in entry.tool.results:
        heard = {"role": "tool", "content": result.content}
        assert reply(user(entry.question), said, heard, tools=tools) == result.answer
    assert reply(user(entry.question)) == entry.answer


def test_text_of_no_sense_gives_finite_logits(model, tokenizer):
    ids = torch.tensor([tokenizer.encode("\x00 zzz ÿ 你 " * 200)])
    with torch.inference_mode():
        assert model(ids).logits.isfinite().all()


def render(tokenizer, *messages, **options):
    return tokenizer.apply_chat_template(list(messages), tokenize=False, **options)


def test_template_lists_tools_behind_the_system_prompt(tokenizer):
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    text = render(tokenizer, {"role": "system", "content": "Be kind."}, user("Hi"), tools=[tool])
    system, rest = text.split("<|im_end|>\n", 1)
    assert system.startswith("<|im_start|>system\nBe kind.\n\nTools:\n<tools>\n" + json.dumps(tool))
    assert rest == "<|im_start|>user\nHi<|im_end|>\n"


@pytest.mark.parametrize("arguments", [{"city": "Paris"}, '{"city": "Paris"}'])
def test_template_writes_calls_and_results(tokenizer, arguments):
    call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    text = render(
        tokenizer,
        user("Weather?"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "rain"}]},
        {"role": "tool", "tool_call_id": "2", "content": "snow"},
    )
    assert text == (
        "<|im_start|>user\nWeather?<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n'
        "</tool_call><|im_end|>\n"
        "<|im_start|>user\n<tool_response>\nrain\n</tool_response>\n<tool_response>\nsnow\n</tool_response>"
        "<|im_end|>\n"
    )


def test_template_keeps_reasoning_only_behind_the_last_user_turn(tokenizer):
    old = {"role": "assistant", "content": "one", "reasoning_content": "old thought"}
    new = {"role": "assistant", "content": "two", "reasoning_content": "new thought"}
    text = render(tokenizer, user("a"), old, user("b"), new)
    assert "old thought" not in text
    assert text.endswith("<|im_start|>assistant\n<think>\nnew thought\n</think>\n\ntwo<|im_end|>\n")


def test_template_switches_thinking_off_with_an_empty_block(tokenizer):
    on = render(tokenizer, user("a"), add_generation_prompt=True)
    off = render(tokenizer, user("a"), add_generation_prompt=True, enable_thinking=False)
    assert off == on + "<think>\n\n</think>\n\n"


def test_template_takes_text_parts_and_refuses_pictures(tokenizer):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert render(tokenizer, user(parts)) == render(tokenizer, user("ab"))
    with pytest.raises(Exception, match="reads text only, not image_url"):
        render(tokenizer, user([{"type": "image_url", "image_url": {"url": "x"}}]))
