"""Ratios of the gateway to its peers, and medians of each server's runs.

A run is what the load generator printed; `runs[kind][server]` are a server's runs of one kind, in order. A
ratio is the median of the rounds' ratios, null where a peer is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.figures import median

Run = dict[str, Any]
Runs = dict[str, dict[str, list[Run]]]


PACED = ("streams-128", "streams-512", "streams-2048", "http2-128")
SCALES = {
    "rps_translated_over_plain": "translated",
    "rps_10k_keys_over_1": "keys",
    "rps_200x50_over_1x1": "fleet",
    "rps_2_over_1": "workers",
}


def plain(label: str) -> str:
    """The label of the plain load's turns next to those of `label`."""
    return f"{label}-plain"


def keys(runs: Runs) -> dict[str, float | int | None]:
    http2 = runs["http2-128"]["ours"]
    paced = [run for label in PACED for run in runs[label]["ours"]]
    result: dict[str, float | int | None] = {}
    for peer in ("vllm-router", "nginx"):
        name = peer.replace("-", "_")
        result[f"rps_over_{name}"] = _over(runs["json"], peer, "rps")
        result[f"cpu_over_{name}"] = _over(runs["streams-128"], peer, "cpu_s_per_million")
    result |= {
        "cpu_over_h1": _median_of(
            http2, runs["streams-128"]["ours"], lambda a, b: a / b, "cpu_s_per_million"
        ),
        "delay_p99_over_nginx": _over(runs["streams-128"], "nginx", "delay_ms"),
        "stalls": sum(run["stalls"] for run in paced) if paced else None,
        "broken": sum(run["broken"] for run in paced) if paced else None,
        "ttfb_added_p99_over_nginx_added": _added(runs["first"]),
        **{key: _ratio(runs, label, "rps") for key, label in SCALES.items()},
        "evenness_2": median(run["evenness"] for run in runs["even"]["ours"]),
        "rps_over_litellm": _over(runs["json"], "litellm", "rps"),
        "cpu_over_litellm": _over(runs["streams-128"], "litellm", "cpu_s_per_million"),
        "kib_per_stream": median(run["kib_per_stream"] for run in runs["idle"]["ours"]),
        "p99_db_down_over_up": _median_of(
            runs["db-down"]["ours"], runs["db-up"]["ours"], lambda a, b: a / b, "first_ms"
        ),
    }
    return result


def _over(by_server: dict[str, list[Run]], peer: str, key: str) -> float | None:
    return _median_of(by_server["ours"], by_server.get(peer, []), lambda a, b: a / b, key)


def _ratio(runs: Runs, label: str, key: str) -> float | None:
    """Ours under another load over ours under the plain one, of turns next to each other."""
    return _median_of(runs[label]["ours"], runs[plain(label)]["ours"], lambda a, b: a / b, key)


def _added(first: dict[str, list[Run]]) -> float | None:
    """What ours adds to the time to the first byte without a gateway, over what nginx adds."""
    added = [
        [_value(run, "first_ms") for run in first.get(server, [])] for server in ("ours", "nginx", "direct")
    ]
    rounds = [values for values in zip(*added, strict=False) if all(values)]
    return median((ours - direct) / (nginx - direct) for ours, nginx, direct in rounds if nginx > direct)


def _median_of(
    ours: list[Run], theirs: list[Run], combine: Callable[[float, float], float], key: str
) -> float | None:
    """The median of `combine` over the rounds that both have; a distribution counts by its p99."""
    pairs = [(_value(a, key), _value(b, key)) for a, b in zip(ours, theirs, strict=False)]
    return median(combine(a, b) for a, b in pairs if a and b)


def _value(run: Run, key: str) -> float | None:
    value = run.get(key)
    return value.get("p99") if isinstance(value, dict) else value


def absolute(runs: Runs) -> dict[str, dict[str, dict[str, float | None]]]:
    """The medians over the rounds, as `figures[kind][server]`."""
    wanted = (
        "rps", "cpu_us", "latency_ms", "chunks_per_s", "cpu_s_per_million", "delay_ms", "stalls", "broken",
        "first_ms", "kib_per_stream", "evenness", "foreign", "generator",
    )  # fmt: skip
    return {
        kind: {
            server: {
                f"{key}_p99" if key.endswith("_ms") else key: median(_value(run, key) for run in some)
                for key in wanted
                if any(key in run for run in some)
            }
            for server, some in by_server.items()
        }
        for kind, by_server in runs.items()
    }
