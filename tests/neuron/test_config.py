from __future__ import annotations

import re
from pathlib import Path

import pytest

from cortex_site.base.settings_file import ConfigError
from neuron.config import NeuronConfig, load_config

EXAMPLE = Path(__file__).parents[2] / "deploy" / "neuron.example.toml"


def written(tmp_path, text):
    path = tmp_path / "neuron.toml"
    path.write_text(text)
    return path


def test_example_file_is_valid():
    loaded = load_config(EXAMPLE)
    assert loaded.is_exposed
    assert [model.id for model in loaded.models] == ["helexa-tiny"]


def test_example_file_names_every_key_and_its_default(tmp_path):
    commented = re.compile(r"^# (\w+ = |\[)", re.MULTILINE)
    everything = load_config(written(tmp_path, commented.sub(r"\1", EXAMPLE.read_text())))
    for name, field in NeuronConfig.model_fields.items():
        assert name in everything.model_fields_set, name
        if hasattr(field.default, "model_fields_set"):
            section = getattr(everything, name)
            assert section.model_fields_set == set(type(section).model_fields), name
    assert everything.restart == NeuronConfig().restart
    assert everything.stream == NeuronConfig().stream


def test_environment_overrides_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("NEURON_DEVICE__THREADS", "3")
    monkeypatch.setenv("NEURON_LISTEN", "127.0.0.1:9")
    loaded = load_config(written(tmp_path, 'listen = "127.0.0.1:8"\n[device]\nthreads = 1\nkv_mb = 7\n'))
    assert (loaded.listen, loaded.device.threads, loaded.device.kv_mb) == ("127.0.0.1:9", 3, 7)


def test_workers_are_told_what_is_configured(tmp_path):
    loaded = load_config(written(tmp_path, '[device]\nkv_dtype = "fp8"\n'))
    assert loaded.worker_flags == ["--kv-dtype", "fp8"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lisen = 'x'", "unknown key lisen"),
        ("[device]\nthreads = 'two'", "device.threads"),
        ("[device]\nthreads = 0", "device.threads"),
        ("[restart]\nwedge = 1", "unknown key restart.wedge"),
        ("listen = '13131'", "expected HOST:PORT"),
        ("[[models]]\nsource = 'x'", "models.0.id is missing"),
        ("[[models]]\nid = 'a'\n[[models]]\nid = 'a'", "given twice"),
        ("listen = ", "not valid TOML"),
    ],
)
def test_mistake_in_the_file_is_one_line_with_file_and_key(tmp_path, text, expected):
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    (line,) = caught.value.lines
    assert expected in line
    assert str(path) in line


def test_repr_hides_the_token():
    assert "secret" not in repr(NeuronConfig(token="secret"))


def test_switches_are_passed_to_workers_as_flags(tmp_path):
    assert "--allow-unexpected-tensors" not in load_config(written(tmp_path, "")).worker_flags
    switched = load_config(written(tmp_path, "[device]\nallow_unexpected_tensors = true\nthreads = 2\n"))
    assert switched.worker_flags == ["--threads", "2", "--allow-unexpected-tensors"]
