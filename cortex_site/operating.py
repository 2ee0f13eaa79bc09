"""Commands that steer a running fleet through its operator API: `cortex load`, `unload`, `ops`, …

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

from cortex_site.config import CortexConfig, load_config

if TYPE_CHECKING:
    from cortex_site.operator_api import OperatorApi

app = typer.Typer()

FAILED, INTERRUPTED = 1, 130

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="cortex.toml")]
HomeOption = Annotated[Path | None, typer.Option("--home", help="State directory")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object")]
WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Watch it to its end")]
ReasonOption = Annotated[str, typer.Option(help="Kept with the operation")]


def settings_of(config: Path | None, home: Path | None) -> CortexConfig:
    """The configuration in `config`, or of the state directory `home`."""
    settings = load_config(config or file_in(home, "cortex.toml"))
    return settings.model_copy(update={"state_dir": home.absolute()}) if home else settings


def file_in(home: Path | None, name: str) -> Path | None:
    """A settings file that the operator put into the state directory."""
    path = (home or CortexConfig().home) / name
    return path if path.is_file() else None


@app.command()
def load(  # noqa: PLR0913 - each is an option
    model: str,
    node: Annotated[str | None, typer.Option(help="Where; the best place when absent")] = None,
    reason: ReasonOption = "",
    wait: WaitOption = True,
    config: ConfigOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Load a model, where it fits best or on a node."""

    def start(api: OperatorApi) -> list[Any]:
        return [api.post("/models/load", {"model": model, "node": node, "reason": reason})]

    _operate(settings_of(config, home), start, wait=wait, as_json=as_json)


@app.command()
def unload(  # noqa: PLR0913 - each is an option
    model: str,
    node: Annotated[str | None, typer.Option(help="Where; everywhere when absent")] = None,
    reason: ReasonOption = "",
    wait: WaitOption = True,
    config: ConfigOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Unload a model from a node, or from all that have it."""

    def start(api: OperatorApi) -> list[Any]:
        nodes = [node] if node else _nodes_with(api, model)
        return [
            api.post("/models/unload", {"model": model, "node": name, "reason": reason}) for name in nodes
        ]

    _operate(settings_of(config, home), start, wait=wait, as_json=as_json)


def _nodes_with(api: OperatorApi, model: str) -> list[str]:
    from cortex_site.operator_api import OperatorError  # noqa: PLC0415 - httpx takes 0.1 s

    status = api.get("/status")
    meant = status["aliases"].get(model, model)
    nodes = [
        node["name"]
        for node in status["nodes"]
        for placement in node["placements"]
        if node["kind"] == "neuron" and placement["model"] == meant and placement["state"] != "unloaded"
    ]
    if not nodes:
        raise OperatorError(f"{model} is not loaded on any node", "model_not_loaded")
    return nodes


@app.command()
def ops(  # noqa: PLR0913 - each is an option
    operation: Annotated[int | None, typer.Argument(help="One of them, watched to its end")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Start it once more, if it failed")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel it, if it has not begun")] = False,
    state: Annotated[str | None, typer.Option(help="Only those in this state")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 20,
    wait: WaitOption = True,
    config: ConfigOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List operations, newest first; or watch, retry or cancel one."""
    if operation is None and (retry or cancel):
        raise typer.BadParameter("which operation?", param_hint="OPERATION")
    settings = settings_of(config, home)
    if operation is None:
        query = {"limit": limit} | ({"state": state} if state else {})
        _answer(settings, lambda api: {"operations": api.get("/operations", **query)}, _listed, as_json)
        return
    verb = "retry" if retry else "cancel" if cancel else ""
    path = f"/operations/{operation}"
    if cancel:
        _answer(settings, lambda api: {"operations": [api.post(f"{path}/cancel")]}, _verdicts, as_json)
        return

    def start(api: OperatorApi) -> list[Any]:
        return [api.post(f"{path}/{verb}") if verb else api.get(path)]

    _operate(settings, start, wait=wait, as_json=as_json)


@app.command(name="join-token")
def join_token(  # noqa: PLR0913 - each is an option
    name: Annotated[str, typer.Option(help="What it is for")] = "",
    ttl_s: Annotated[int | None, typer.Option(min=1, help="Seconds it is good for; join.token_ttl_s")] = None,
    revoke: Annotated[int | None, typer.Option(help="Revoke the token of this number instead")] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the tokens instead")] = False,
    config: ConfigOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token with which a neuron joins: neuron serve --join URL --token TOKEN."""

    def ask(api: OperatorApi) -> Any:
        if listed:
            return {"tokens": api.get("/join-tokens")}
        if revoke is not None:
            return {"tokens": [api.post(f"/join-tokens/{revoke}/revoke")]}
        return api.post("/join-tokens", {"name": name, "ttl_s": ttl_s})

    _answer(settings_of(config, home), ask, _tokens, as_json)


def _tokens(answer: Any) -> str:
    if "token" in answer:
        typer.echo(f"Good until {answer['expires_at']}; shown this once:", err=True)
        return str(answer["token"])
    return "\n".join(
        f"#{token['id']} {token['prefix']}… {token['name']} {token['state']} until {token['expires_at']}"
        for token in answer["tokens"]
    )


def _operate(
    settings: CortexConfig, start: Callable[[OperatorApi], list[Any]], *, wait: bool, as_json: bool
) -> None:
    """Start operations, watch them unless told not to, and end with what came of them."""
    from cortex_site.following import InterruptedWatchError, follow  # noqa: PLC0415 - httpx takes 0.1 s
    from cortex_site.operator_api import OperatorApi, OperatorError  # noqa: PLC0415

    try:
        api = OperatorApi(settings)
        operations = start(api)
        ended = follow(api, operations) if wait else operations
    except OperatorError as error:
        _fail(str(error), as_json)
    except InterruptedWatchError as stop:
        going_on = [operation["id"] for operation in stop.operations if operation["state"] in _ACTIVE]
        for ident in going_on:
            typer.echo(f"cortex: operation #{ident} goes on; `cortex ops {ident}` watches it", err=True)
        sys.exit(INTERRUPTED)
    _print({"operations": ended}, _verdicts, as_json)
    sys.exit(FAILED if any(operation["state"] in _LOST for operation in ended) else 0)


_ACTIVE, _LOST = frozenset({"pending", "running"}), frozenset({"failed", "cancelled"})


def _answer(
    settings: CortexConfig, ask: Callable[[OperatorApi], Any], shown: Callable[[Any], str], as_json: bool
) -> None:
    from cortex_site.operator_api import OperatorApi, OperatorError  # noqa: PLC0415 - httpx takes 0.1 s

    try:
        answer = ask(OperatorApi(settings))
    except OperatorError as error:
        _fail(str(error), as_json)
    _print(answer, shown, as_json)


def _fail(message: str, as_json: bool) -> NoReturn:
    if as_json:
        typer.echo(json.dumps({"error": message}))
    else:
        typer.echo(f"cortex: {message}", err=True)
    sys.exit(FAILED)


def _print(answer: Any, shown: Callable[[Any], str], as_json: bool) -> None:
    typer.echo(json.dumps(answer) if as_json else shown(answer))


def _verdicts(answer: Any) -> str:
    from cortex_site.following import verdict  # noqa: PLC0415 - rich's progress takes its time

    return "\n".join(verdict(operation) for operation in answer["operations"])


def _listed(answer: Any) -> str:
    operations: Sequence[Any] = answer["operations"]
    return _verdicts(answer) if operations else "no operations"
