from __future__ import annotations

from pathlib import Path

import pytest

from cortex_site.base.settings_file import ConfigError, line_of, load
from cortex_site.cli.check import describe
from cortex_site.config import load_catalogue, load_config
from cortex_site.config.models_toml import Catalogue


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cortex.toml"
    path.write_text(text)
    return path


def errors(path: Path | None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    return list(caught.value.lines)


def test_the_documented_file(tmp_path):
    config = load_config(
        write(
            tmp_path,
            """
            [gateway]
            listen = "0.0.0.0:31313"
            metrics_listen = "0.0.0.0:31314"
            [eviction]
            strategy = "lru"
            defrag_after_cycles = 50
            [[neurons]]
            name = "beast"
            endpoint = "http://beast.internal:13131"
            """,
        )
    )
    assert config.gateway.listen == "0.0.0.0:31313"
    assert config.is_exposed
    assert config.neurons[0].endpoint == "http://beast.internal:13131"


def test_defaults_listen_on_loopback():
    config = load_config(None)
    assert config.gateway.listen == "127.0.0.1:31313"
    assert not config.is_exposed


def test_environment_is_over_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("CORTEX_GATEWAY__WORKERS", "3")
    monkeypatch.setenv("CORTEX_EVICTION__STRATEGY", "priority")
    config = load_config(write(tmp_path, "[gateway]\nworkers = 2\nlisten = '127.0.0.1:1'"))
    assert (config.gateway.workers, config.gateway.listen) == (3, "127.0.0.1:1")
    assert config.eviction.strategy == "priority"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[gateway]\nlisen = 'x'", 2, ["unknown key gateway.lisen"]),
        ("[gatway]\nx = 1", 1, ["unknown key gatway"]),
        ("[gateway]\n\nworkers = 'two'", 3, ["gateway.workers", "integer", "'two'"]),
        ("[gateway]\nlisten = '31313'", 2, ["gateway.listen", "HOST:PORT"]),
        ("[eviction]\nstrategy = 'fifo'", 2, ["'lru' or 'priority'", "'fifo'"]),
        (
            "[[neurons]]\nname='a'\nendpoint='http://a'\n[[neurons]]\nname = 'b'",
            4,
            ["neurons.1.endpoint is missing"],
        ),
        ("[[neurons]]\nname='a'\nendpoint='ftp://a'", 3, ["neurons.0.endpoint", "http://host:13131"]),
        ("[[neurons]]\nname='a'\nendpoint='http://a/v1'", 1, ["no path", 'kind = "openai"']),
        ("[[neurons]]\nname='a'\nendpoint='http://a'\nmodels=['m']", 1, ["models: only for"]),
        (
            "[[neurons]]\nname='a'\nkind='openai'\nbase_url='http://a'\nmodels=[1]",
            5,
            ["neurons.0.models: input should be a valid dictionary"],
        ),
        (
            "[[neurons]]\nname='a'\nkind='openai'\nbase_url='http://u:secret@a/v1'",
            4,
            ["neurons.0.base_url", "without user"],
        ),
        (
            "[[neurons]]\nname='a'\nkind='vllm'\nbase_url='http://a'\napi_key='secret'",
            3,
            ["neurons.0.kind", "'openai'"],
        ),
    ],
)
def test_each_mistake_names_file_line_key_and_expectation(tmp_path, text, line, words):
    path = write(tmp_path, text)
    (found,) = errors(path)
    assert found.startswith(f"{path}:{line}: ")
    for word in words:
        assert word in found
    assert "secret" not in found


def test_several_mistakes_are_several_lines(tmp_path):
    assert len(errors(write(tmp_path, "[gateway]\nworkers = 0\nx = 1\n[eviction]\nstrategy = 1"))) == 3


def test_a_variable_at_fault_is_named(monkeypatch):
    monkeypatch.setenv("CORTEX_GATEWAY__WORKERS", "two")
    assert errors(None)[0].startswith("environment: CORTEX_GATEWAY__WORKERS: ")


def test_a_variable_of_no_section_is_an_error(monkeypatch):
    monkeypatch.setenv("CORTEX_GATEWAI__WORKERS", "2")
    assert "CORTEX_GATEWAI__WORKERS: unknown section" in errors(None)[0]


def test_secrets_are_not_shown(tmp_path):
    text = "[[neurons]]\nname = 'a'\nendpoint = 'http://a'\ntoken = 12345"
    (found,) = errors(write(tmp_path, text))
    assert "neurons.0.token" in found
    assert "12345" not in found


def test_broken_toml_and_missing_file(tmp_path):
    assert "not valid TOML" in errors(write(tmp_path, "[gateway"))[0]
    assert "line 2" in errors(write(tmp_path, "[gateway]\nx = = 1"))[0]
    assert "cannot be read" in errors(tmp_path / "none.toml")[0]


def test_names_given_twice(tmp_path):
    text = "[[neurons]]\nname = 'a'\nendpoint = 'http://a'\n" * 2
    assert "the name 'a' is given twice" in errors(write(tmp_path, text))[0]


def test_line_of_prefers_the_key_over_its_table():
    text = "[a]\nx = 1\n[[b]]\ny = 1\n[[b]]\ny = 2\n"
    assert line_of(text, ("b", 1, "y")) == 6
    assert line_of(text, ("b", 1, "missing")) == 5
    assert line_of(text, ("c",)) is None


def test_models_file_beside_the_configuration(tmp_path):
    (tmp_path / "models.toml").write_text('[[models]]\nid = "m"\n[aliases]\nbig = "m"\n')
    config = load_config(write(tmp_path, 'models_config = "models.toml"'))
    catalogue = load_catalogue(config)
    assert [profile.id for profile in catalogue.models] == ["m"]
    assert catalogue.aliases == {"big": "m"}


def test_models_file_errors(tmp_path):
    path = tmp_path / "models.toml"
    path.write_text('[[models]]\nid = "m"\nvram_mb = "much"\n')
    with pytest.raises(ConfigError) as caught:
        load(Catalogue, path)
    assert caught.value.lines[0].startswith(f"{path}:3: models.0.vram_mb")


@pytest.mark.parametrize("key", ["tool_format", "reasoning_format"])
def test_an_unknown_format_is_an_error_with_the_list(tmp_path, key):
    path = tmp_path / "models.toml"
    path.write_text(f'[[models]]\nid = "m"\n{key} = "morse"\n')
    with pytest.raises(ConfigError) as caught:
        load(Catalogue, path)
    known = {"tool_format": "hermes", "reasoning_format": "<think>"}[key]
    (line,) = caught.value.lines
    assert line.startswith(f"{path}:3: models.0.{key}: must be one of ")
    assert known in line
    assert line.endswith("(found 'morse')")


def test_check_warns_of_contradictions(tmp_path):
    (tmp_path / "models.toml").write_text('[[models]]\nid = "m"\npinned_on = ["moon"]\n[aliases]\na = "zz"\n')
    config = load_config(write(tmp_path, 'models_config = "models.toml"\n[gateway]\nlisten = "0.0.0.0:1"'))
    text = "\n".join(describe(config, load_catalogue(config)))
    assert "no node 'moon'" in text
    assert "no model 'zz'" in text
    assert "only loopback is served" in text
