from __future__ import annotations

import json
import re

import pytest

from helexa_acp.config import ConfigError, load_config, parse_config
from helexa_acp.endpoint import WIRES
from helexa_acp.provider.wires.registry import ADAPTERS
from helexa_acp.tools.builtin import builtin_tools


def parse(table, env=None):
    return parse_config(table, source="config.toml", env=env or {})


def endpoint(**keys):
    return {"name": "a", "base_url": "http://h/v1", **keys}


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "xdg" / "helexa-acp" / "config.toml"
    path.parent.mkdir(parents=True)
    return path


MINIMAL = '[[endpoints]]\nname = "file"\nbase_url = "http://file/v1"\n'


def test_a_file_may_configure_several_endpoints(config_file, tmp_path):
    config_file.write_text(
        MINIMAL + '[[endpoints]]\nname = "b"\nbase_url = "http://b/v1"\napi_key_env = "K"\n'
    )
    config = load_config({"XDG_CONFIG_HOME": str(tmp_path / "xdg"), "K": "secret"})
    assert [e.name for e in config.endpoints] == ["file", "b"]
    assert config.default_endpoint == "file"
    assert config.endpoints[0].wire_api == "openai-chat"
    assert config.endpoints[1].api_key == "secret"
    assert "secret" not in repr(config)


def test_a_file_wins_over_the_environment(config_file, tmp_path):
    config_file.write_text(MINIMAL)
    env = {
        "XDG_CONFIG_HOME": str(tmp_path / "xdg"),
        "HELEXA_ACP_BASE_URL": "http://env/v1",
        "HELEXA_ACP_API_KEY": "k",
    }
    (only,) = load_config(env).endpoints
    assert (only.base_url, only.api_key) == ("http://file/v1", None)


def test_an_empty_xdg_variable_counts_as_unset(tmp_path):
    path = tmp_path / ".config" / "helexa-acp" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(MINIMAL)
    assert load_config({"XDG_CONFIG_HOME": "", "HOME": str(tmp_path)}).endpoints[0].name == "file"


def test_a_named_file_must_exist(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_config({"HELEXA_ACP_CONFIG_PATH": str(tmp_path / "none.toml"), "HOME": str(tmp_path)})


def test_the_environment_configures_one_endpoint(tmp_path):
    env = {
        "HOME": str(tmp_path),
        "HELEXA_ACP_BASE_URL": "http://env/v1",
        "HELEXA_ACP_MODEL": "m",
        "HELEXA_ACP_API_KEY": "",
        "HELEXA_ACP_SYSTEM_PROMPT_PATH": "",
    }
    config = load_config(env)
    (only,) = config.endpoints
    assert (only.name, only.base_url, only.default_model, only.api_key) == (
        "default",
        "http://env/v1",
        "m",
        None,
    )
    assert config.system_prompt_path is None


def test_without_configuration_there_is_one_local_endpoint(tmp_path):
    (only,) = load_config({"HOME": str(tmp_path)}).endpoints
    assert only.name == "default"


def test_a_bad_url_in_the_environment_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="HELEXA_ACP_BASE_URL"):
        load_config({"HOME": str(tmp_path), "HELEXA_ACP_BASE_URL": "nonsense"})


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, "at least one"),
        ({"endpoints": []}, "at least one"),
        ({"endpoints": [endpoint(name="")]}, "number 1: name"),
        ({"endpoints": [endpoint(name="a:b")]}, "'a:b'.*clash"),
        ({"endpoints": [endpoint(), endpoint()]}, "'a'.*already"),
        ({"endpoints": [endpoint()], "default_endpoint": "b"}, "default_endpoint.*'b'"),
        ({"endpoints": [endpoint()], "system_prompt_path": 3}, "system_prompt_path"),
        ({"endpoints": [endpoint(base_url="x")]}, "no usable endpoints(.|\n)*'a'.*base_url"),
    ],
)
def test_a_mistake_in_the_file_as_a_whole_is_an_error(table, words):
    with pytest.raises(ConfigError, match=words):
        parse(table)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"base_url": 3}, "base_url"),
        ({"base_url": "ftp://x"}, "base_url"),
        ({"wire_api": "grpc"}, "wire_api.*'grpc'"),
        ({"api_key_env": "NOT_SET"}, "api_key_env.*NOT_SET"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"context_window": "big"}, "context_window"),
        ({"fallback": "b"}, "fallback"),
        ({"fallback": ["good:x", " "]}, "fallback: a selector is empty"),
        ({"price": {"inputs": 1}}, "price.*inputs"),
        ({"price": {"input": -1}}, "price.input"),
        ({"price": {"input": 1, "currency": "dollar"}}, "price.currency"),
        ({"wire_api": "scripted"}, "script"),
        ({"images": "yes"}, "images"),
        ({"idle_timeout_s": 0}, "idle_timeout_s"),
    ],
)
def test_a_bad_endpoint_is_skipped_with_a_warning_that_names_it(keys, words):
    config = parse({"endpoints": [endpoint(**keys), endpoint(name="good")]})
    assert [e.name for e in config.endpoints] == ["good"]
    assert config.default_endpoint == "good"
    (warning,) = config.warnings
    assert "config.toml" in warning
    assert "'a'" in warning
    assert re.search(words, warning)


def test_unknown_keys_are_warned_about():
    config = parse({"endpoints": [endpoint(default_modle="x")], "defualt": 1})
    assert "'default_modle'" in " ".join(config.warnings)
    assert "'defualt'" in " ".join(config.warnings)


def test_a_fallback_to_a_missing_endpoint_is_warned_about():
    config = parse({"endpoints": [endpoint(fallback=["good:x", "llama3", "goood:x"]), endpoint(name="good")]})
    (warning,) = config.warnings
    assert "endpoint 'a': fallback" in warning
    assert "'goood'" in warning


def test_a_literal_key_overrides_the_name_of_a_variable():
    config = parse({"endpoints": [endpoint(api_key="lit", api_key_env="K")]}, {"K": "env"})
    assert config.endpoints[0].api_key == "lit"


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("a:b/c", ("a", "b/c")),
        ("helexa:helexa/large", ("helexa", "helexa/large")),
        ("b/c", ("a", "b/c")),
        ("gpt-5", ("a", "gpt-5")),
        (":gpt-5", ("a", ":gpt-5")),
        ("helexa:", ("a", "helexa:")),
        ("llama3:8b", ("a", "llama3:8b")),
        ("helexa:llama3:8b", ("helexa", "llama3:8b")),
    ],
)
def test_a_selector_names_endpoint_and_model(selector, expected):
    config = parse({"endpoints": [endpoint(), endpoint(name="helexa")]})
    found, model = config.select(selector)
    assert (found.name, model) == expected


def test_every_configurable_wire_has_an_adapter():
    assert (*ADAPTERS, "scripted") == WIRES


def test_few_tools_may_be_offered_alone(tmp_path):
    config = parse({"endpoints": [endpoint()], "tools": ["read", "mcp__*"]})
    assert [config.offers(name) for name in ("read", "mcp__a__b", "write")] == [True, True, False]
    assert parse({"endpoints": [endpoint()]}).offers("write")
    env = {"HOME": str(tmp_path), "HELEXA_ACP_TOOLS": "read,shell"}
    config = load_config(env)
    assert list(builtin_tools(config.offers)) == ["read", "shell"]
    with pytest.raises(ConfigError, match="tools: must be a list of strings"):
        parse({"endpoints": [endpoint()], "tools": "read"})


def test_a_command_runs_in_the_background_only_where_the_tool_for_that_is_offered():
    assert "background" in builtin_tools()["shell"].spec.parameters["properties"]
    alone = builtin_tools(lambda name: name != "background")
    assert "background" not in json.dumps(alone["shell"].spec.parameters)
