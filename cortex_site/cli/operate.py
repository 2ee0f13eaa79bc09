"""How commands ask a running fleet's operator API, show what it answers, and end.

Exit codes: 0 done, 1 refused, failed or not reachable, 2 a mistake in the command or the configuration, 130
not watched to the end.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from cortex_site.config import load_config
from cortex_site.config.cortex_toml import CortexConfig

if TYPE_CHECKING:
    from cortex_site.cli.operator_api import OperatorApi

FAILED, INTERRUPTED = 1, 130

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="cortex.toml")]
HomeOption = Annotated[Path | None, typer.Option("--home", help="State directory")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object")]
WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Watch it to its end")]
ReasonOption = Annotated[str, typer.Option(help="Why; kept with the operation and in the audit log")]
ForceOption = Annotated[bool, typer.Option("--force", help="End requests under way; else they are awaited")]


def settings_of(config: Path | None, home: Path | None) -> CortexConfig:
    """The configuration in `config`, or of the state directory `home`."""
    settings = load_config(config or file_in(home, "cortex.toml"))
    return settings.model_copy(update={"state_dir": home.absolute()}) if home else settings


def file_in(home: Path | None, name: str) -> Path | None:
    """A settings file that the operator put into the state directory."""
    path = (home or CortexConfig().home) / name
    return path if path.is_file() else None


def operate(
    settings: CortexConfig, start: Callable[[OperatorApi], list[Any]], *, wait: bool, as_json: bool
) -> None:
    """Start operations, watch them unless told not to, and end with what came of them."""
    from cortex_site.cli.operator_api import OperatorApi, OperatorError  # noqa: PLC0415
    from cortex_site.cli.watch import InterruptedWatchError, follow  # noqa: PLC0415 - httpx takes 0.1 s
    from fleet.operations import UNSUCCESSFUL  # noqa: PLC0415 - the command line starts without it

    try:
        api = OperatorApi(settings)
        operations = start(api)
        ended = follow(api, operations) if wait else operations
    except OperatorError as error:
        fail(str(error), as_json)
    except InterruptedWatchError as stop:
        for ident in stop.going_on:
            typer.echo(f"cortex: operation #{ident} goes on; `cortex ops {ident}` watches it", err=True)
        sys.exit(INTERRUPTED)
    show({"operations": ended}, verdicts, as_json)
    sys.exit(FAILED if any(operation["state"] in UNSUCCESSFUL for operation in ended) else 0)


def answer_with(
    settings: CortexConfig, ask: Callable[[OperatorApi], Any], shown: Callable[[Any], str], as_json: bool
) -> None:
    from cortex_site.cli.operator_api import OperatorApi, OperatorError  # noqa: PLC0415 - httpx takes 0.1 s

    try:
        answer = ask(OperatorApi(settings))
    except OperatorError as error:
        fail(str(error), as_json)
    show(answer, shown, as_json)


def fail(message: str, as_json: bool) -> NoReturn:
    if as_json:
        typer.echo(json.dumps({"error": message}))
    else:
        typer.echo(f"cortex: {message}", err=True)
    sys.exit(FAILED)


def show(answer: Any, shown: Callable[[Any], str], as_json: bool) -> None:
    typer.echo(json.dumps(answer) if as_json else shown(answer))


def verdicts(answer: Any) -> str:
    from cortex_site.cli.watch import verdict  # noqa: PLC0415 - rich's progress takes its time

    return "\n".join(verdict(operation) for operation in answer["operations"])


def listed(answer: Any) -> str:
    operations: Sequence[Any] = answer["operations"]
    return verdicts(answer) if operations else "no operations"
