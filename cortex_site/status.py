"""`cortex status`: the fleet as the control plane knows it, and the processes on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from cortex_site.config import CortexConfig
from cortex_site.settings_file import split_listen
from cortex_site.supervisor import STATE_FILE

MIB = 1 << 20
TIMEOUT_S = 10.0


def show(config: CortexConfig, *, as_json: bool) -> int:
    """Print what is known; 0, or 1 when the control plane does not answer."""
    state = _read_state(config.home)
    fleet, problem = _ask(config, state)
    processes = _processes(state, fleet)
    if as_json:
        Console(soft_wrap=True).print_json(data={"error": problem, **fleet, "processes": processes})
        return 1 if problem else 0
    console = Console()
    if problem:
        Console(stderr=True).print(f"cortex: {problem}", soft_wrap=True)
    else:
        console.print(_nodes(fleet), _models(fleet), sep="\n")
    if processes:
        console.print(_process_table(processes))
    return 1 if problem else 0


def _read_state(home: Path) -> dict[str, Any]:
    """What the supervisor wrote; empty when none runs on this home."""
    try:
        state: dict[str, Any] = json.loads((home / STATE_FILE).read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return state


def _ask(config: CortexConfig, state: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """The operator API's status, or why there is none."""
    host, port = split_listen(config.gateway.admin_listen)
    url = state.get("admin", f"http://{host}:{port}")
    token_file = config.home / "operator_token"
    try:
        headers = {"authorization": f"Bearer {token_file.read_text().strip()}"}
        answer = httpx.get(f"{url}/api/status", headers=headers, timeout=TIMEOUT_S)
        answer.raise_for_status()
    except OSError as error:
        return {}, f"{token_file}: {error.strerror}; is cortex running with this state directory?"
    except httpx.HTTPError as error:
        return {}, f"the control plane at {url} does not answer: {error}"
    fleet: dict[str, Any] = answer.json()
    return fleet, None


def _processes(state: dict[str, Any], fleet: dict[str, Any]) -> list[dict[str, Any]]:
    """The supervised processes, then the device workers below a neuron of this machine."""
    found = [_process(item["name"], item["pid"], item["restarts"]) for item in state.get("processes", [])]
    pids = {item["pid"] for item in found}
    for node in fleet.get("nodes", []):
        if node["pid"] in pids:
            found += [
                _process(_worker_name(device), device["pid"], device["restarts"])
                for device in node["devices"]
            ]
    return [item for item in found if item["rss_mb"] is not None]


def _worker_name(device: dict[str, Any]) -> str:
    return f"{device['kind']}-dev-{device['index']}"


def _process(name: str, pid: int | None, restarts: int) -> dict[str, Any]:
    try:
        rss_mb = round(psutil.Process(pid).memory_info().rss / MIB) if pid else None
    except psutil.Error:
        rss_mb = None
    return {"name": name, "pid": pid, "rss_mb": rss_mb, "restarts": restarts}


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column in {"memory MB", "pid", "restarts"} else "left")
    return table


def _nodes(fleet: dict[str, Any]) -> Table:
    table = _table("\nNodes", "node", "device", "kind", "state", "memory MB", "reason")
    for node in fleet["nodes"]:
        doubts = "; ".join(f"not believed: {text}" for text in node["warnings"])
        if not node["devices"]:
            kind = "server" if node["kind"] == "openai" else ""
            state = "up" if node["healthy"] else "away"
            table.add_row(node["name"], "", kind, state, "", node["reason"] or doubts)
        for device in node["devices"]:
            used = f"{device['memory_used_mb']} / {device['memory_total_mb']}"
            state = device["state"] if node["healthy"] else "away"
            reason = node["reason"] or device["reason"] or doubts
            table.add_row(
                node["name"], f"{_worker_name(device)} {device['name']}", device["kind"], state, used, reason
            )
    return table


def _models(fleet: dict[str, Any]) -> Table:
    table = _table("\nModels", "model", "node", "state", "memory MB", "context", "error")
    placed = {}
    for node in fleet["nodes"]:
        for placement in node["placements"]:
            placed[placement["model"]] = True
            progress = placement["progress"]
            percent = f" {progress:.0%}" if placement["state"] == "loading" and progress is not None else ""
            table.add_row(
                placement["model"],
                node["name"],
                placement["state"] + percent,
                str(placement["memory_mb"] or ""),
                str(placement["context"] or ""),
                placement["error_message"],
            )
    for model in fleet["models"]:
        if model["id"] not in placed:
            table.add_row(model["id"], "", "available", str(model["vram_mb"] or ""), "", "")
    return table


def _process_table(processes: list[dict[str, Any]]) -> Table:
    table = _table("\nProcesses here", "process", "pid", "memory MB", "restarts")
    for item in processes:
        table.add_row(item["name"], str(item["pid"]), str(item["rss_mb"]), str(item["restarts"]))
    total = sum(item["rss_mb"] for item in processes)
    table.add_row("all", "", str(total), "")
    return table
