"""What a user adds to the agent in the configuration: MCP servers, hooks, sub-agents, language servers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from helexa_acp.config_values import (
    BadValueError,
    boolean,
    positive_int,
    positive_number,
    string,
    string_table,
    strings,
    table,
    table_values,
    tables,
    text,
    url,
)
from helexa_acp.language_servers import DEFAULT_DIAGNOSTICS, DiagnosticsSettings, parse_diagnostics

MODES = ("plan", "default", "accept_edits", "sandbox", "bypass")  # the narrowest first
SANDBOXES = ("bubblewrap", "landlock")
EVENTS = ("before_tool", "after_tool", "stop")


@dataclass(frozen=True, slots=True)
class Hook:
    """A command that runs at an event of a turn."""

    event: str
    command: str
    tools: tuple[str, ...] = ("*",)  # patterns of names, for the events of tools
    timeout_s: float = 30.0

    def concerns(self, event: str, tool: str) -> bool:
        return event == self.event and (not tool or any(fnmatchcase(tool, p) for p in self.tools))


@dataclass(frozen=True, slots=True)
class AgentKind:
    """A kind of sub-agent, to which the model may give a task."""

    name: str
    description: str  # for the model: what to give it
    model: str | None = None  # a selector; None: the session's model
    mode: str | None = None  # None, or a wider one than the session's: the session's mode
    tools: tuple[str, ...] = ("*",)  # patterns of names
    prompt: str = ""
    token_limit: int = 1_000_000  # prompts and replies of one task
    time_limit_s: float = 1800.0

    def may_use(self, tool: str) -> bool:
        return any(fnmatchcase(tool, pattern) for pattern in self.tools)


GENERAL = AgentKind("general", "any task that can be described on its own: it has all tools")


@dataclass(frozen=True, slots=True)
class WebSearch:
    """Where the web is searched: on a SearXNG server, at `url`, or by a tool of an MCP server."""

    url: str = ""
    tool: str = ""  # its name for models, as in mcp__server__tool
    argument: str = "query"  # of that tool
    parameters: dict[str, Any] = field(default_factory=dict)  # more for each search
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    max_results: int = 10


@dataclass(frozen=True, slots=True)
class ConfinementSettings:
    """The sandbox of shell commands, which the mode `sandbox` uses."""

    use: tuple[str, ...] = SANDBOXES  # the first that works
    always: bool = False  # in every mode
    network: bool = False  # for every command
    writable: tuple[str, ...] = ()  # directories beside the session's own


@dataclass(frozen=True, slots=True)
class Extensions:
    mcp_servers: tuple[dict[str, Any], ...] = ()  # as the protocol describes them
    hooks: tuple[Hook, ...] = ()
    agents: tuple[AgentKind, ...] = (GENERAL,)
    diagnostics: DiagnosticsSettings | None = DEFAULT_DIAGNOSTICS  # None: no language servers
    web_search: WebSearch | None = None
    sandbox: ConfinementSettings = field(default_factory=ConfinementSettings)


def parse_extensions(config: dict[str, Any]) -> tuple[Extensions, list[str]]:
    """Return the extensions in a parsed file, and a note for each that is left out.

    Raises BadValueError for a mistake in a hook or the sandbox: what they guard must not run unguarded.
    """
    notes: list[str] = []
    servers = tables(config, "mcp_servers", _server, notes)
    broken: list[str] = []
    hooks = tables(config, "hooks", _hook, broken)
    if broken:
        raise BadValueError(broken[0])
    agents = {agent.name: agent for agent in [GENERAL, *tables(config, "agents", _agent, notes)]}
    added = Extensions(
        _distinct(servers, notes),
        tuple(hooks),
        tuple(agents.values()),
        parse_diagnostics(config, notes),
        _web_search(config, notes),
        ConfinementSettings(**table_values(config.get("sandbox", {}), _SANDBOX_KEYS, "sandbox.")),
    )
    return added, notes


KEYS = {"mcp_servers", "hooks", "agents", "diagnostics", "language_servers", "web_search", "sandbox"}


def _server(entry: Any) -> dict[str, Any]:
    values = table_values(entry, _SERVER_KEYS)
    if "name" not in values:
        raise BadValueError("name: is missing")
    if ("command" in values) == ("url" in values):
        raise BadValueError("needs either command or url")
    if "url" in values:
        headers = _pairs(values.get("headers", {}))
        return {"type": "http", "name": values["name"], "url": values["url"], "headers": headers}
    return {
        "name": values["name"],
        "command": values["command"],
        "args": list(values.get("args", ())),
        "env": _pairs(values.get("env", {})),
    }


def _pairs(table: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in table.items()]


def _distinct(servers: list[dict[str, Any]], notes: list[str]) -> tuple[dict[str, Any], ...]:
    """Return the servers without those whose name another one has, which are noted."""
    found: dict[str, dict[str, Any]] = {}
    twice = [server for server in servers if found.setdefault(server["name"], server) is not server]
    notes += [f"[[mcp_servers]] {server['name']!r}: name: another server has it already" for server in twice]
    return tuple(found.values())


def _hook(entry: Any) -> Hook:
    values = table_values(entry, _HOOK_KEYS)
    for key in ("event", "command"):
        if key not in values:
            raise BadValueError(f"{key}: is missing")
    return Hook(**values)


def _agent(entry: Any) -> AgentKind:
    values = table_values(entry, _AGENT_KEYS)
    for key in ("name", "description"):
        if key not in values:
            raise BadValueError(f"{key}: is missing")
    return AgentKind(**values)


def _web_search(config: dict[str, Any], notes: list[str]) -> WebSearch | None:
    if "web_search" not in config:
        return None
    try:
        return _search(config["web_search"])
    except BadValueError as error:
        notes.append(f"[web_search]: {error}")
        return None


def _search(entry: Any) -> WebSearch:
    values = table_values(entry, _SEARCH_KEYS)
    if ("url" in values) == ("tool" in values):
        raise BadValueError("needs either url or tool")
    return WebSearch(**values)


def _mode(key: str, value: Any) -> str:
    if value not in MODES:
        raise BadValueError(f"{key}: {value!r} is none of {', '.join(MODES)}")
    return str(value)


def _sandboxes(key: str, value: Any) -> tuple[str, ...]:
    if not set(strings(key, value)) <= set(SANDBOXES):
        raise BadValueError(f"{key}: must be a list of {' and '.join(SANDBOXES)}")
    return tuple(value)


def _folders(key: str, value: Any) -> tuple[str, ...]:
    """Return absolute paths, with the home directory in place of ~."""
    folders = tuple(str(Path(folder).expanduser()) for folder in strings(key, value))
    for folder in folders:
        if not Path(folder).is_absolute():
            raise BadValueError(f"{key}: {folder!r} is not absolute")
    return folders


def _event(key: str, value: Any) -> str:
    if value not in EVENTS:
        raise BadValueError(f"{key}: {value!r} is none of {', '.join(EVENTS)}")
    return str(value)


_SERVER_KEYS: dict[str, Callable[[str, Any], Any]] = {
    "name": text,
    "command": text,
    "args": strings,
    "env": string_table,
    "url": url,
    "headers": string_table,
}
_HOOK_KEYS: dict[str, Callable[[str, Any], Any]] = {
    "event": _event,
    "command": text,
    "tools": strings,
    "timeout_s": positive_number,
}
_AGENT_KEYS: dict[str, Callable[[str, Any], Any]] = {
    "name": text,
    "description": text,
    "model": text,
    "mode": _mode,
    "tools": strings,
    "prompt": string,
    "token_limit": positive_int,
    "time_limit_s": positive_number,
}
_SEARCH_KEYS: dict[str, Callable[[str, Any], Any]] = {
    "url": url,
    "tool": text,
    "argument": text,
    "parameters": table,
    "headers": string_table,
    "max_results": positive_int,
}
_SANDBOX_KEYS: dict[str, Callable[[str, Any], Any]] = {
    "use": _sandboxes,
    "always": boolean,
    "network": boolean,
    "writable": _folders,
}
