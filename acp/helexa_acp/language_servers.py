"""The language servers that are known, and those of the configuration, which replace or add to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from helexa_acp.config_values import (
    BadValueError,
    boolean,
    positive_number,
    string_table,
    strings,
    table,
    table_values,
    tables,
    text,
)


@dataclass(frozen=True, slots=True, eq=False)
class LanguageServer:
    """A program that speaks the Language Server Protocol on its standard input and output."""

    name: str
    command: str  # a path, or a name that is looked for
    args: tuple[str, ...] = ()
    languages: Mapping[str, str] = field(default_factory=dict)  # the protocol's ids, by suffix
    is_configured: bool = False  # by the user, who so permits it
    may_run_project_code: bool = True  # build scripts, plug-ins, the project's interpreter or compiler
    settings: Mapping[str, Any] = field(default_factory=dict)  # by section


_PYTHON = {".py": "python", ".pyi": "python"}
_SCRIPT = {
    ".ts": "typescript",
    ".mts": "typescript",
    ".cts": "typescript",
    ".tsx": "typescriptreact",
    ".js": "javascript",
    ".mjs": "javascript",
    ".cjs": "javascript",
    ".jsx": "javascriptreact",
}
KNOWN = (
    LanguageServer("pyright", "pyright-langserver", ("--stdio",), _PYTHON),
    LanguageServer("ruff", "ruff", ("server",), _PYTHON, may_run_project_code=False),
    LanguageServer("rust-analyzer", "rust-analyzer", (), {".rs": "rust"}),
    LanguageServer("gopls", "gopls", (), {".go": "go"}),
    LanguageServer("typescript-language-server", "typescript-language-server", ("--stdio",), _SCRIPT),
)


@dataclass(frozen=True, slots=True)
class DiagnosticsSettings:
    servers: tuple[LanguageServer, ...] = KNOWN
    timeout_s: float = 10.0  # that an edit waits at most, for all servers together


DEFAULT_DIAGNOSTICS = DiagnosticsSettings()


def parse_diagnostics(config: dict[str, Any], notes: list[str]) -> DiagnosticsSettings | None:
    """Return the settings in a parsed file, None if they are off. What is wrong is left out and noted."""
    servers = {server.name: server for server in KNOWN}
    for name, server in tables(config, "language_servers", _server, notes):
        if server is None:
            servers.pop(name, None)
        else:
            servers[name] = server
    try:
        values = table_values(config.get("diagnostics", {}), _KEYS)
    except BadValueError as error:
        notes.append(f"[diagnostics]: {error}")
        values = {}
    if not values.pop("enabled", True):
        return None
    return DiagnosticsSettings(tuple(servers.values()), **values)


def _server(entry: Any) -> tuple[str, LanguageServer | None]:
    """Return the name and the server, None if it is off. Raises BadValueError."""
    values = table_values(entry, _SERVER_KEYS)
    if "name" not in values:
        raise BadValueError("name: is missing")
    name = values["name"]
    if not values.pop("enabled", True):
        return name, None
    known = next((server for server in KNOWN if server.name == name), None)
    if known is not None:
        return name, replace(known, **values, is_configured=True)
    for key in ("command", "languages"):
        if key not in values:
            raise BadValueError(f"{key}: is missing")
    return name, LanguageServer(**values, is_configured=True)


def _languages(key: str, value: Any) -> dict[str, str]:
    if not string_table(key, value) or not all(suffix.startswith(".") for suffix in value):
        raise BadValueError(f'{key}: must map suffixes to languages, as in {{ ".c" = "c" }}')
    return dict(value)


_KEYS: dict[str, Callable[[str, Any], Any]] = {"enabled": boolean, "timeout_s": positive_number}
_SERVER_KEYS: dict[str, Callable[[str, Any], Any]] = {
    "name": text,
    "command": text,
    "args": strings,
    "languages": _languages,
    "settings": table,
    "enabled": boolean,
}
