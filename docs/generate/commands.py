"""The commands, as a page of the site and as man pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from typer.main import get_command

from cortex_site.base.version import VERSION
from cortex_site.cli.app import app
from neuron.cli import cli

PROGRAMS: dict[str, typer.Typer] = {"cortex": app, "neuron": cli}
FILES = {
    "cortex": [
        ("/etc/cortex/cortex.toml", "settings of the package's unit"),
        ("/var/lib/cortex", "its state"),
    ],
    "neuron": [
        ("/etc/neuron/neuron.toml", "settings of the package's unit"),
        ("/var/lib/neuron", "its state"),
    ],
}


def page() -> str:
    """The page of all commands."""
    lines = ["# Commands", ""]
    for program, what in PROGRAMS.items():
        group: Any = get_command(what)
        lines += [f"## {program}", "", str(group.help or ""), ""]
        for name, command in group.commands.items():
            lines += [f"### {usage(program, name, command)}", "", paragraph(command.help), ""]
            lines += [f"- `{option}` {text}" for option, text in options(command)] + [""]
    return "\n".join(lines)


def man_pages() -> dict[str, str]:
    """The man page of each program, by its file's name."""
    return {f"{program}.1": man_page(program, what) for program, what in PROGRAMS.items()}


def man_page(program: str, what: typer.Typer) -> str:
    group: Any = get_command(what)
    lines = [f'.TH {program.upper()} 1 "" "cortex {VERSION}" "User commands"', ".SH NAME"]
    lines += [f"{program} \\- {quoted(paragraph(group.help).rstrip('.'))}", ".SH SYNOPSIS", f".B {program}"]
    lines += ["[OPTIONS] COMMAND [ARGUMENTS]", ".SH COMMANDS"]
    for name, command in group.commands.items():
        lines += [".TP", f".B {quoted(usage(program, name, command))}", quoted(paragraph(command.help))]
        for option, text in options(command):
            lines += [".RS", ".TP", f".B {quoted(option)}", quoted(text), ".RE"]
    lines.append(".SH FILES")
    for path, text in FILES[program]:
        lines += [".TP", f".I {path}", text]
    return "\n".join(
        [*lines, ".SH EXIT STATUS", "0: done; 1: failed; 2: a mistake in the command or settings.", ""]
    )


def usage(program: str, name: str, command: Any) -> str:
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    shown = (str(each.name).upper() for each in arguments)
    wanted = (text if each.required else f"[{text}]" for each, text in zip(arguments, shown, strict=True))
    return " ".join([program, name, *wanted])


def options(command: Any) -> Iterator[tuple[str, str]]:
    """Each option with its names and its text."""
    for parameter in command.params:
        if parameter.param_type_name == "option" and parameter.name != "help":
            names = ", ".join([*parameter.opts, *parameter.secondary_opts])
            yield names, paragraph(parameter.help)


def paragraph(text: str | None) -> str:
    return " ".join((text or "").split())


def quoted(text: str) -> str:
    """Text for roff: no line may begin with a dot, and hyphens are minus signs."""
    safe = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{safe}" if safe.startswith((".", "'")) else safe
