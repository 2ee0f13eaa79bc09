"""Commands that steer a running fleet: models, nodes and operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from cortex_site.cli.operate import (
    ConfigOption,
    ForceOption,
    HomeOption,
    JsonOption,
    ReasonOption,
    WaitOption,
    answer_with,
    listed,
    operate,
    settings_of,
    verdicts,
)
from cortex_site.config.cortex_toml import CortexConfig

if TYPE_CHECKING:
    from cortex_site.cli.operator_api import OperatorApi

app = typer.Typer()


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

    operate(settings_of(config, home), start, wait=wait, as_json=as_json)


@app.command()
def unload(  # noqa: PLR0913 - each is an option
    model: str,
    node: Annotated[str | None, typer.Option(help="Where; everywhere when absent")] = None,
    force: ForceOption = False,
    reason: ReasonOption = "",
    wait: WaitOption = True,
    config: ConfigOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Unload a model from a node, or from all that have it."""

    def start(api: OperatorApi) -> list[Any]:
        nodes = [node] if node else _nodes_with(api, model)
        wish = {"model": model, "reason": reason, "force": force}
        return [api.post("/models/unload", wish | {"node": name}) for name in nodes]

    operate(settings_of(config, home), start, wait=wait, as_json=as_json)


def _nodes_with(api: OperatorApi, model: str) -> list[str]:
    from cortex_site.cli.operator_api import OperatorError  # noqa: PLC0415 - httpx takes 0.1 s

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
def log(
    model: str,
    node: Annotated[str | None, typer.Option(help="Where; the first that has it when absent")] = None,
    lines: Annotated[int, typer.Option(min=1, max=10_000)] = 200,
    config: ConfigOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what the server of a managed engine wrote last."""
    query = {"model": model, "lines": lines} | ({"node": node} if node else {})
    settings = settings_of(config, home)
    answer_with(settings, lambda api: api.get("/models/log", **query), _log, as_json)


def _log(answer: Any) -> str:
    return "\n".join(answer["lines"]) or "it has no server of its own, or that wrote nothing"


@app.command()
def pin(
    model: str,
    node: Annotated[str | None, typer.Option(help="Keep it loaded there")] = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Never evict a model: keep it loaded on a node, or leave it wherever it is."""
    told = f"{model} is pinned on {node}" if node else f"{model} is pinned"
    _tell(settings_of(config, home), "/models/pin", _pin_of(model, node, reason), told, as_json)


@app.command()
def unpin(
    model: str,
    node: Annotated[str | None, typer.Option(help="The pin on that node; all pins when absent")] = None,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a model's pins: it may be evicted again."""
    told = f"{model} is not pinned on {node} any more" if node else f"{model} is not pinned any more"
    _tell(settings_of(config, home), "/models/unpin", _pin_of(model, node, reason), told, as_json)


@app.command()
def cordon(
    node: str,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Load nothing new on a node; its models stay."""
    told = f"nothing new is loaded on {node}"
    _tell(settings_of(config, home), f"/nodes/{quote(node)}/cordon", {"reason": reason}, told, as_json)


@app.command()
def uncordon(
    node: str,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Allow loads on a node again."""
    told = f"models may be loaded on {node} again"
    _tell(settings_of(config, home), f"/nodes/{quote(node)}/uncordon", {"reason": reason}, told, as_json)


@app.command()
def drain(  # noqa: PLR0913 - each is an option
    node: str,
    force: ForceOption = False,
    reason: ReasonOption = "",
    wait: WaitOption = True,
    config: ConfigOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cordon a node and unload all of its models."""

    def start(api: OperatorApi) -> list[Any]:
        return [api.post(f"/nodes/{quote(node)}/drain", {"force": force, "reason": reason})]

    operate(settings_of(config, home), start, wait=wait, as_json=as_json)


@app.command()
def defrag(  # noqa: PLR0913 - each is an option
    node: str,
    device: Annotated[int | None, typer.Option(min=0, help="Its index; default: all devices")] = None,
    force: ForceOption = False,
    reason: ReasonOption = "",
    wait: WaitOption = True,
    config: ConfigOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Restart a device's worker, for memory in one piece, and load its models again."""

    def start(api: OperatorApi) -> list[Any]:
        devices = _devices_of(api, node) if device is None else [device]
        wish = {"force": force, "reason": reason}
        return [api.post(f"/nodes/{quote(node)}/devices/{index}/defrag", wish) for index in devices]

    operate(settings_of(config, home), start, wait=wait, as_json=as_json)


def _devices_of(api: OperatorApi, name: str) -> list[int]:
    from cortex_site.cli.operator_api import OperatorError  # noqa: PLC0415 - httpx takes 0.1 s

    devices = [
        device["index"] for node in api.get("/nodes") for device in node["devices"] if node["name"] == name
    ]
    if not devices:
        raise OperatorError(f"there is no node {name!r} with devices", "node_not_found")
    return devices


def _pin_of(model: str, node: str | None, reason: str) -> dict[str, Any]:
    return {"model": model, "node": node, "reason": reason}


def _tell(settings: CortexConfig, path: str, wish: dict[str, Any], told: str, as_json: bool) -> None:
    """Ask for what is done at once; `told` is then true."""
    answer_with(settings, lambda api: api.post(path, wish), lambda _: told, as_json)


@app.command()
def ops(  # noqa: PLR0913 - each is an option
    operation: Annotated[int | None, typer.Argument(help="An operation's id: watch it to its end")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Ask once more for what failed")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel an operation that has not begun")] = False,
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
        answer_with(settings, lambda api: {"operations": api.get("/operations", **query)}, listed, as_json)
        return
    verb = "retry" if retry else "cancel" if cancel else ""
    path = f"/operations/{operation}"
    if cancel:
        answer_with(settings, lambda api: {"operations": [api.post(f"{path}/cancel")]}, verdicts, as_json)
        return

    def start(api: OperatorApi) -> list[Any]:
        return [api.post(f"{path}/{verb}") if verb else api.get(path)]

    operate(settings, start, wait=wait, as_json=as_json)


@app.command(name="join-token")
def join_token(  # noqa: PLR0913 - each is an option
    name: Annotated[str, typer.Option(help="What it is for")] = "",
    ttl_s: Annotated[int | None, typer.Option(min=1, help="Its lifetime; default: join.token_ttl_s")] = None,
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

    answer_with(settings_of(config, home), ask, _tokens, as_json)


def _tokens(answer: Any) -> str:
    if "token" in answer:
        typer.echo(f"Good until {answer['expires_at']}; shown this once:", err=True)
        return str(answer["token"])
    return "\n".join(
        f"#{token['id']} {token['prefix']}… {token['name']} {token['state']} until {token['expires_at']}"
        for token in answer["tokens"]
    )
