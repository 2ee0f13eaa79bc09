"""Whatever stands in its files, a model's text is refused with the file's name, or it works."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuron.text.directory import BrokenModelError, read_model_text
from neuron.text.template import TemplateRefusedError
from tests.stubs.damaged import damage
from tests.stubs.model_dir import TEMPLATE, write_model
from tests.stubs.mutations import nested

CHAT = [{"role": "user", "content": "hi"}]
# Those that come first replace the templates of the others.
FILES = ["chat_template.jinja", "chat_template.json", "tokenizer_config.json"]
FILES += ["config.json", "generation_config.json", "tokenizer.json"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with each file that is read for text."""
    generation = {"do_sample": True, "temperature": 0.6, "top_k": 20, "eos_token_id": [5, 6]}
    path = write_model(tmp_path_factory.mktemp("whole") / "model", generation=generation)
    named = [{"name": name, "template": TEMPLATE} for name in ("default", "tool_use")]
    naming = {"bos_token": {"content": "<|im_start|>"}, "eos_token": "<|im_end|>", "chat_template": named}
    edit(path / "tokenizer_config.json", **naming, response_template={"fields": {}})
    edit(path / "config.json", eos_token_id=2, bos_token_id=1)
    (path / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return path


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def use(directory: Path) -> None:
    """A chat and its answer, with whatever the directory says."""
    text = read_model_text(directory)
    assert text.vocab_size < 1 << 25
    assert all(isinstance(said, str) for said in (*text.capabilities, *text.description.values()))
    prompt = "hi"
    if text.template is not None:
        with suppress(TemplateRefusedError):
            prompt = text.template.render(CHAT).text
    tokens = text.encode(prompt)
    assert isinstance(text.decode(tokens), str)
    answer = text.answer(prompt, tools={})
    for token in tokens:
        answer.feed(token)
    answer.finish()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32), name=st.sampled_from(FILES))
def test_a_damaged_file_is_named_or_the_text_works(seed: int, name: str, whole: Path, tmp_path: Path):
    directory = tmp_path / "model"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(whole, directory)
    for other in FILES[: FILES.index(name)][:2]:
        (directory / other).unlink()
    damage(Random(seed), directory / name)  # noqa: S311
    try:
        use(directory)
    except BrokenModelError as error:
        assert str(directory) in str(error)  # noqa: PT017 - it may work as well


def test_the_directory_works_before_it_is_damaged(whole: Path):
    use(whole)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chat_template.json", nested()),
        ("config.json", nested()),
        ("config.json", '{"bos_token_id": -3, "eos_token_id": "</s>"}'),
        ("config.json", '{"eos_token_id": [2, null]}'),
        ("config.json", '{"eos_token_id": 1099511627776}'),
        ("generation_config.json", '{"eos_token_id": 1099511627776}'),
        ("generation_config.json", '{"temperature": "\\ud800"}'),
        ("tokenizer_config.json", '{"eos_token": "\\ud800"}'),
        ("tokenizer_config.json", '{"chat_template": [{"name": [], "template": "x"}]}'),
        ("chat_template.json", '{"chat_template": {"default": 1}}'),
    ],
)
def test_the_file_at_fault_is_named(name: str, content: str, whole: Path, tmp_path: Path):
    directory = shutil.copytree(whole, tmp_path / "model")
    for other in ("chat_template.jinja", "chat_template.json"):
        (directory / other).unlink()
    (directory / name).write_text(content)
    with pytest.raises(BrokenModelError, match=rf"{directory / name}"):
        read_model_text(directory)


def test_ids_below_zero_stand_for_none(whole: Path, tmp_path: Path):
    directory = shutil.copytree(whole, tmp_path / "model")
    edit(directory / "config.json", eos_token_id=-1, bos_token_id=-1)
    edit(directory / "generation_config.json", eos_token_id=None)
    text = read_model_text(directory)
    assert text.eos_ids == (text.tokenizer.token_to_id("<|im_end|>"),)


def test_half_a_character_that_a_template_makes_up_is_no_text(tmp_path: Path):
    directory = write_model(tmp_path / "model", template="{{ messages[0].content ~ '\\ud800' }}")
    with pytest.raises(BrokenModelError, match=r"tokenizer_config\.json: .* surrogates not allowed"):
        read_model_text(directory)
