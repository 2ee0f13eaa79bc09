"""`cortex status`: the fleet as the control plane knows it, and the processes on this machine."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from cortex_site.cli.operator_api import OperatorApi, OperatorError, read_state
from cortex_site.config.contradictions import tls_objections
from cortex_site.config.cortex_toml import CortexConfig
from cortex_site.processes.redis_server import read_server

MIB = 1 << 20


def show(config: CortexConfig, *, as_json: bool) -> int:
    """The exit code, after printing: 0, or 1 when the control plane does not answer."""
    fleet, problem = _ask(config)
    processes = _processes(read_state(config.home), fleet)
    if as_json:
        Console(soft_wrap=True).print_json(data={"error": problem, **fleet, "processes": processes})
        return 1 if problem else 0
    console = Console()
    for objection in tls_objections(config):
        Console(stderr=True).print(f"cortex: warning: {objection}", soft_wrap=True)
    if problem:
        Console(stderr=True).print(f"cortex: {problem}", soft_wrap=True)
    else:
        console.print(_nodes(fleet), _models(fleet), sep="\n")
    if processes:
        console.print(_process_table(processes))
    return 1 if problem else 0


def _ask(config: CortexConfig) -> tuple[dict[str, Any], str | None]:
    """The operator API's status, or the reason why there is none."""
    try:
        return OperatorApi(config).get("/status"), None
    except OperatorError as error:
        return {}, str(error)


def _processes(state: dict[str, Any], fleet: dict[str, Any]) -> list[dict[str, Any]]:
    """The supervised processes, and the device workers of a neuron on this machine."""
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
    rss_mb = server = None
    with suppress(psutil.Error):
        if pid:
            process = psutil.Process(pid)
            rss_mb = round(process.memory_info().rss / MIB)
            server = read_server(process.exe()) if name == "redis" else None
    return {
        "name": name,
        "pid": pid,
        "rss_mb": rss_mb,
        "restarts": restarts,
        "program": server and server.name,
    }


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column in {"memory MB", "pid", "restarts"} else "left")
    return table


def _nodes(fleet: dict[str, Any]) -> Table:
    table = _table("\nNodes", "node", "device", "kind", "state", "memory MB", "reason")
    for node in fleet["nodes"]:
        warnings = "; ".join(node["warnings"])
        if not node["devices"]:
            kind = "server" if node["kind"] == "openai" else ""
            state = "up" if node["healthy"] else "away"
            table.add_row(node["name"], "", kind, state, "", node["reason"] or warnings)
        for device in node["devices"]:
            used = f"{device['memory_used_mb']} / {device['usable_mb']}"
            ready = "cordoned" if node["cordoned"] and device["state"] == "ready" else device["state"]
            state = ready if node["healthy"] else "away"
            reason = node["reason"] or device["reason"] or warnings
            table.add_row(
                node["name"], f"{_worker_name(device)} {device['name']}", device["kind"], state, used, reason
            )
    return table


def _models(fleet: dict[str, Any]) -> Table:
    table = _table("\nModels", "model", "node", "state", "memory MB", "weights", "context", "error")
    placed = {}
    for node in fleet["nodes"]:
        for placement in node["placements"]:
            placed[placement["model"]] = True
            progress = placement["progress"]
            percent = f" {progress:.0%}" if placement["state"] == "loading" and progress is not None else ""
            table.add_row(
                placement["model"],
                node["name"],
                placement["state"] + percent if node["healthy"] else f"away (was {placement['state']})",
                _memory(placement),
                _weights(placement),
                str(placement["context"] or ""),
                placement["error_message"],
            )
    for model in fleet["models"]:
        if model["id"] not in placed:
            table.add_row(model["id"], "", "available", str(model["vram_mb"] or ""), model["quant"], "", "")
    return table


def _memory(placement: dict[str, Any]) -> str:
    """MiB, of a model on several devices of each: `9000 (0: 4500, 1: 4500)`."""
    whole = str(placement["memory_mb"] or "")
    devices = placement["devices"]
    if not whole or len(devices) < 2:
        return whole
    each = placement["device_memory_mb"] or [placement["memory_mb"] // len(devices)] * len(devices)
    shares = ", ".join(f"{index}: {mb}" for index, mb in zip(devices, each, strict=False))
    return f"{whole} ({shares})"


def _weights(placement: dict[str, Any]) -> str:
    """How they are stored: the format, and bits of each."""
    bits = placement["bits_per_weight"]
    return f"{placement['format']} {bits:.3g}" if bits else placement["format"]


def _process_table(processes: list[dict[str, Any]]) -> Table:
    table = _table("\nProcesses here", "process", "pid", "memory MB", "restarts")
    for item in processes:
        name = f"{item['name']} ({item['program']})" if item["program"] else item["name"]
        table.add_row(name, str(item["pid"]), str(item["rss_mb"]), str(item["restarts"]))
    total = sum(item["rss_mb"] for item in processes)
    table.add_row("all", "", str(total), "")
    return table
