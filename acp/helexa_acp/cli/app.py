"""The program `helexa-acp`: the agent for an editor, or one of the commands for its user."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable

from helexa_acp import VERSION
from helexa_acp.config import Config, ConfigError, load_config

USAGE = """\
usage: helexa-acp [--log-file FILE] [COMMAND]

Without a command it speaks the Agent Client Protocol on standard input and output, for an editor.

commands:
  doctor [ENDPOINT...]  test endpoints: connection, key, models, streaming, tools, reasoning, context
  check -- COMMAND      test an ACP agent against the rules of the protocol and print a score
  chat                  start a session in this terminal
  setup                 ask for an endpoint and write the configuration file

options:
  --log-file FILE       write the log to FILE instead of standard error (or set HELEXA_ACP_LOG_FILE)
  --version, --help

HELEXA_ACP_LOG_LEVEL sets the level: debug, info (the default), warning or error.
"""

log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    args = sys.argv[1:] if argv is None else argv
    try:
        log_file, args = _log_file(args)
        _set_up_logging(log_file)
        return _run(args)
    except ConfigError as error:
        sys.stderr.write(f"helexa-acp: config: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130


def _run(args: list[str]) -> int:
    match args:
        case []:
            return _serve()
        case ["--version"]:
            sys.stdout.write(f"helexa-acp {VERSION}\n")
            return 0
        case ["--help" | "-h"]:
            sys.stdout.write(USAGE)
            return 0
        case [("doctor" | "check" | "chat" | "setup") as command, *rest]:
            return _main_of(command)(rest)
    sys.stderr.write(f"helexa-acp: unknown arguments: {' '.join(args)}\n\n{USAGE}")
    return 2


def _main_of(command: str) -> Callable[[list[str]], int]:
    """Return the command's `main`. Imports only what that command needs; the agent needs none of it."""
    match command:
        case "doctor":
            from helexa_acp.cli.doctor import main  # noqa: PLC0415
        case "check":
            from helexa_acp.cli.check import main  # noqa: PLC0415
        case "chat":
            from helexa_acp.cli.chat import main  # noqa: PLC0415
        case _:
            from helexa_acp.cli.setup import main  # noqa: PLC0415
    return main


def _serve() -> int:
    from helexa_acp.rpc.stdio import take_stdio  # noqa: PLC0415 - commands do not need it
    from helexa_acp.serve import serve  # noqa: PLC0415

    fds = take_stdio()
    config = load_config()
    _warn(config)
    asyncio.run(serve(config, *fds))
    return 0


def _warn(config: Config) -> None:
    for warning in config.warnings:
        log.warning("config: %s", warning)


def _log_file(args: list[str]) -> tuple[str | None, list[str]]:
    """Return the log file and the other arguments. The option counts only in front of the command."""
    match args:
        case ["--log-file", path, *rest]:
            return path, rest
        case [option, *rest] if option.startswith("--log-file="):
            return option.partition("=")[2], rest
    return os.environ.get("HELEXA_ACP_LOG_FILE") or None, args


def _set_up_logging(path: str | None) -> None:
    level = logging.getLevelNamesMapping().get(
        os.environ.get("HELEXA_ACP_LOG_LEVEL", "info").upper(), logging.INFO
    )
    problem = None
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if path:
        try:
            handler = logging.FileHandler(path, encoding="utf-8", errors="replace")
        except OSError as error:
            problem = error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if not isinstance(handler, logging.FileHandler):  # the words of MCP servers go to a log file or nowhere
        logging.getLogger("helexa_acp.tools.mcp.stdio").setLevel(logging.WARNING)
    if problem is not None:
        log.warning("cannot write the log to %s: %s", path, problem)
