"""The configured endpoints: from a TOML file, or from the environment if there is no file.

The environment adds nothing to a file that exists. A mistake is reported before the editor initialises: one
in the file as a whole raises `ConfigError`, one in an endpoint drops that endpoint with a warning. Each
message names the file, the endpoint and the key.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from helexa_acp import extensions
from helexa_acp.budget import Budget, parse_budget
from helexa_acp.command_environment import CommandEnvironment
from helexa_acp.config_values import BadValueError, strings, url_problem
from helexa_acp.endpoint import Endpoint, parse_endpoint
from helexa_acp.extensions import Extensions, parse_extensions

DEFAULT_BASE_URL = "http://127.0.0.1:31313/v1"
ENVIRONMENT = "the environment"


class ConfigError(Exception):
    """The agent cannot start with this configuration."""


@dataclass(frozen=True, slots=True)
class Config:
    endpoints: tuple[Endpoint, ...]
    default_endpoint: str
    source: str
    system_prompt_path: Path | None = None
    warnings: tuple[str, ...] = ()
    extensions: Extensions = field(default_factory=Extensions)
    tools: tuple[str, ...] = ("*",)  # patterns of the names of those that models are offered
    command_environment: CommandEnvironment = field(default_factory=CommandEnvironment)
    budget: Budget = field(default_factory=Budget)

    def offers(self, tool: str) -> bool:
        return any(fnmatchcase(tool, pattern) for pattern in self.tools)

    def endpoint(self, name: str) -> Endpoint | None:
        return next((endpoint for endpoint in self.endpoints if endpoint.name == name), None)

    def select(self, selector: str) -> tuple[Endpoint, str]:
        """Return the endpoint and the model that a selector names: `endpoint:model`, or a model alone.

        A model alone belongs to the default endpoint. `llama3:8b` is one, unless an endpoint is named llama3.
        Raises ConfigError.
        """
        name, colon, model = selector.partition(":")
        named = self.endpoint(name) if colon and model else None
        if named is not None:
            return named, model
        default = self.endpoint(self.default_endpoint)
        if default is None:
            raise ConfigError(f"{self.source}: the default endpoint {self.default_endpoint!r} is not usable")
        return default, selector


def config_home(env: Mapping[str, str]) -> Path:
    return _home(env, "XDG_CONFIG_HOME", ".config")


def data_home(env: Mapping[str, str]) -> Path:
    return _home(env, "XDG_DATA_HOME", ".local/share")


def models_path(env: Mapping[str, str]) -> Path:
    """Return the file that keeps the endpoints' last lists of models."""
    return data_home(env) / "models.json"


def _home(env: Mapping[str, str], variable: str, below: str) -> Path:
    named = env.get(variable)
    base = Path(named) if named else Path(env.get("HOME") or Path.home()) / below
    return base / "helexa-acp"


def load_config(env: Mapping[str, str] = os.environ) -> Config:
    """Return the configuration that the environment points to. Raises ConfigError."""
    named = env.get("HELEXA_ACP_CONFIG_PATH")
    path = Path(named) if named else config_home(env) / "config.toml"
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        if named:
            raise ConfigError(f"HELEXA_ACP_CONFIG_PATH: {path} does not exist") from None
        return _from_environment(env)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    return parse_config(table, source=str(path), env=env)


def _from_environment(env: Mapping[str, str]) -> Config:
    base_url = env.get("HELEXA_ACP_BASE_URL") or DEFAULT_BASE_URL
    problem = url_problem(base_url)
    if problem:
        raise ConfigError(f"HELEXA_ACP_BASE_URL: {problem}")
    endpoint = Endpoint(
        "default",
        base_url,
        default_model=env.get("HELEXA_ACP_MODEL") or None,
        api_key=env.get("HELEXA_ACP_API_KEY") or None,
        max_tokens=_env_int(env, "HELEXA_ACP_MAX_TOKENS"),
        context_window=_env_int(env, "HELEXA_ACP_CONTEXT_WINDOW"),
    )
    prompt = env.get("HELEXA_ACP_SYSTEM_PROMPT_PATH")
    path = Path(prompt) if prompt else None
    tools = tuple((env.get("HELEXA_ACP_TOOLS") or "*").split(","))
    programs = _command_environment(("*",), [], [endpoint], env)
    return Config(
        (endpoint,),
        endpoint.name,
        ENVIRONMENT,
        path,
        tools=tools,
        command_environment=programs,
        budget=Budget(_env_int(env, "HELEXA_ACP_BUDGET_TOKENS")),
    )


def _env_int(env: Mapping[str, str], name: str) -> int | None:
    text = env.get(name)
    if not text:
        return None
    if not text.isdecimal() or int(text) == 0:
        raise ConfigError(f"{name}: must be a positive whole number, not {text!r}")
    return int(text)


def parse_config(table: dict[str, Any], *, source: str, env: Mapping[str, str]) -> Config:
    """Return the configuration in a parsed TOML file; `source` names the file in messages.

    Raises ConfigError for a mistake in the file as a whole, or if no endpoint is usable.
    """
    entries = table.get("endpoints")
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{source}: needs at least one [[endpoints]] table")
    warnings = [f"{source}: unknown key {key!r} is ignored" for key in table.keys() - _TOP_KEYS]
    names = _names(entries, source)
    endpoints: list[Endpoint] = []
    for position, entry in enumerate(entries):
        try:
            endpoint, notes = parse_endpoint(entry, env)
        except BadValueError as error:
            where = names[position] or f"number {position + 1}"
            warnings.append(f"{source}: endpoint {where!r} is skipped: {error}")
            continue
        warnings += [f"{source}: endpoint {endpoint.name!r}: {note}" for note in notes]
        endpoints.append(endpoint)
    if not endpoints:
        raise ConfigError("no usable endpoints:\n" + "\n".join(warnings))
    default = _default_endpoint(table, names, endpoints, source)
    prompt = table.get("system_prompt_path")
    if prompt is not None and not isinstance(prompt, str):
        raise ConfigError(f"{source}: system_prompt_path must be a string")
    path = Path(prompt).expanduser() if prompt else None
    warnings += [
        f"{source}: {note}" for endpoint in endpoints for note in _fallback_notes(endpoint, endpoints)
    ]
    try:
        added, notes = parse_extensions(table)
        tools = strings("tools", table.get("tools", ["*"]))
        passed = strings("command_variables", table.get("command_variables", ["*"]))
        budget = parse_budget(table.get("budget", {}))
    except BadValueError as error:
        raise ConfigError(f"{source}: {error}") from error
    warnings += [f"{source}: skipped: {note}" for note in notes]
    programs = _command_environment(passed, entries, endpoints, env)
    return Config(tuple(endpoints), default, source, path, tuple(warnings), added, tools, programs, budget)


_TOP_KEYS = {
    *("endpoints", "default_endpoint", "system_prompt_path", "tools", "command_variables", "budget"),
    *extensions.KEYS,
}


def _command_environment(
    passed: tuple[str, ...], entries: list[Any], endpoints: list[Endpoint], env: Mapping[str, str]
) -> CommandEnvironment:
    """Return what programs get of the environment: no key of an endpoint, nor of one that is not usable."""
    variables = {entry.get("api_key_env") for entry in entries if isinstance(entry, dict)}
    names = {name for name in variables if isinstance(name, str) and name}
    names |= {"HELEXA_ACP_API_KEY"} & env.keys()
    keys = {endpoint.api_key for endpoint in endpoints if endpoint.api_key}
    return CommandEnvironment(passed, frozenset(names), frozenset(keys))


def _names(entries: list[Any], source: str) -> list[str]:
    """Return the endpoints' names. They decide what selectors mean, so one mistake spoils the whole file."""
    names: list[str] = []
    for position, entry in enumerate(entries, 1):
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"{source}: endpoint number {position}: name must be a non-empty string")
        if ":" in name:
            raise ConfigError(
                f"{source}: endpoint {name!r}: name: a ':' would clash with the endpoint:model selector"
            )
        if name in names:
            raise ConfigError(f"{source}: endpoint {name!r}: name: another endpoint has it already")
        names.append(name)
    return names


def _fallback_notes(endpoint: Endpoint, usable: list[Endpoint]) -> list[str]:
    """Return a note for each fallback that may be misspelt: what stands before its colon is no endpoint."""
    names = {other.name for other in usable}
    strays = [
        (selector, name)
        for selector in endpoint.fallback
        if (name := selector.partition(":")[0]) != selector and name not in names
    ]
    return [
        f"endpoint {endpoint.name!r}: fallback: no usable endpoint is named {name!r}, "
        f"so {selector!r} is taken for a model of the default endpoint"
        for selector, name in strays
    ]


def _default_endpoint(table: dict[str, Any], names: list[str], usable: list[Endpoint], source: str) -> str:
    default = table.get("default_endpoint", names[0])
    if default not in names:
        raise ConfigError(
            f"{source}: default_endpoint: no endpoint is named {default!r}; "
            f"the endpoints are {', '.join(names)}"
        )
    if all(endpoint.name != default for endpoint in usable):
        # It was skipped with a warning. The agent still starts, with the first usable endpoint.
        return usable[0].name
    return str(default)
