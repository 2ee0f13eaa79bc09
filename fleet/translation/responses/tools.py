"""The tools of a Responses request as chat functions, and back again for the model's calls.

function      a function
custom        a function with the one argument `input`, a string; its grammar stands in that argument's
              description, because chat cannot enforce it
namespace     its tools, each named by namespace, `__` and name
anything else is run by OpenAI and refused
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from fleet.translation.responses.wire import Tool, ToolChoice
from fleet.translation.validation import is_given, reject, require_object_schema, require_tool_name

Json = dict[str, Any]


_HOSTED = "{!r} is run by OpenAI; 'function', 'custom' and 'namespace' work here."
_REFUSED = {
    "tool_search": (
        "{!r} is a search of OpenAI's; offer every tool in `tools`. Codex does with apps = false and "
        "plugins = false under [features] in its config.toml, and a model name that OpenAI does not have."
    ),
    "web_search": '{!r} is run by OpenAI. Codex leaves it out with web_search = "disabled" in config.toml.',
}


class Origin(msgspec.Struct, frozen=True):
    """The client's name for a tool that chat knows by one name."""

    name: str
    namespace: str | None = None
    is_custom: bool = False


class _Input(msgspec.Struct):
    input: str


_inputs = msgspec.json.Decoder(_Input)


def chat_name(name: str, namespace: str | None) -> str:
    return f"{namespace}__{name}" if namespace else name


def wrap_input(text: str) -> str:
    """The arguments of the function that stands for a custom tool with the input `text`."""
    return msgspec.json.encode({"input": text}).decode()


def unwrap_input(arguments: str) -> str:
    """A custom tool's input; other arguments are returned verbatim."""
    try:
        return _inputs.decode(arguments).input
    except (msgspec.DecodeError, RecursionError):
        return arguments


def tooling(
    tools: Sequence[Tool], choice: str | ToolChoice | None, parallel: bool | None
) -> tuple[Json, dict[str, Origin]]:
    """The chat request's fields for the tools, and the origin of each function by its name in chat."""
    functions, origins = [], {}
    for path, tool, namespace in _flat(tools):
        name = chat_name(tool.name or "", namespace)
        function = {"type": "function", "function": _function(tool, name, path)}
        if name in origins:
            reject(f"{path}.name", f"{name!r} is declared twice.")
        origins[name] = Origin(tool.name or "", namespace, tool.type == "custom")
        functions.append(function)
    fields: Json = {"tools": functions}
    if choice is not None:
        fields["tool_choice"] = _choice(choice, origins)
    if parallel is not None:
        fields["parallel_tool_calls"] = parallel
    return (fields if functions else {}), origins


def _flat(tools: Sequence[Tool]) -> Iterator[tuple[str, Tool, str | None]]:
    for number, tool in enumerate(tools):
        if tool.type != "namespace":
            yield f"tools[{number}]", tool, None
            continue
        if not tool.name:
            reject(f"tools[{number}].name", "This field is required.")
        require_tool_name(tool.name, f"tools[{number}].name")
        for inner, member in enumerate(tool.tools or ()):
            yield f"tools[{number}].tools[{inner}]", member, tool.name


def _function(tool: Tool, name: str, path: str) -> Json:
    if tool.type not in {"function", "custom"}:
        reject(f"{path}.type", _REFUSED.get(tool.type, _HOSTED).format(tool.type))
    if not tool.name:
        reject(f"{path}.name", "This field is required.")
    function: Json = {"name": require_tool_name(name, f"{path}.name")}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.type == "custom":
        return function | {"parameters": _custom_parameters(tool)}
    if tool.strict is not None:
        function["strict"] = tool.strict
    if is_given(tool.parameters):
        function["parameters"] = require_object_schema(tool.parameters, f"{path}.parameters")
    return function


def _custom_parameters(tool: Tool) -> Json:
    text: Json = {"type": "string"}
    if tool.format and tool.format.definition:
        text["description"] = f"Follows this {tool.format.syntax or ''} grammar:\n{tool.format.definition}"
    return {"type": "object", "properties": {"input": text}, "required": ["input"]}


def _choice(choice: str | ToolChoice, origins: dict[str, Origin]) -> str | Json:
    if isinstance(choice, str):
        if choice == "required" and not origins:
            reject("tool_choice", "A tool is to be called, but `tools` offers none.")
        return choice
    if choice.type == "allowed_tools":
        return _allowed(choice, origins)
    return _named(choice.type, choice.name, origins, "tool_choice")


def _allowed(choice: ToolChoice, origins: dict[str, Origin]) -> Json:
    if choice.mode is None:
        reject("tool_choice.mode", "This field is required; it is 'auto' or 'required'.")
    if not choice.tools:
        reject("tool_choice.tools", "At least one of `tools` must be allowed.")
    tools = [
        _named(tool.type, tool.name, origins, f"tool_choice.tools[{number}]")
        for number, tool in enumerate(choice.tools)
    ]
    return {"type": "allowed_tools", "allowed_tools": {"mode": choice.mode, "tools": tools}}


def _named(kind: str, name: str | None, origins: dict[str, Origin], path: str) -> Json:
    if kind not in {"function", "custom"}:
        reject(f"{path}.type", f"{kind!r} cannot be chosen here; a function or custom tool can.")
    if name is None or name not in origins:
        reject(f"{path}.name", "This must be the name of one of `tools`.")
    return {"type": "function", "function": {"name": name}}
