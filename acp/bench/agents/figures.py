"""The figures of agents, from their trials."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable, Iterator
from typing import Any

from bench.agents.client import Trial

Trials = dict[str, list[Trial]]  # by task

LATE_TURN = 3  # the first one of which prompts should be cached
RATIOS = ("initialize_ms", "first_update_ms", "rss_mib", "requests", "prompt_tokens")


def figures_of(trials: Trials) -> dict[str, Any]:
    every = [trial for of in trials.values() for trial in of]
    done = [task for task, of in trials.items() if all(trial.done for trial in of)]
    return {
        "tasks_done": len(done),
        "initialize_ms": _median(t.initialize_ms for t in every if t.initialize_ms is not None),
        "first_update_ms": _median(ms for t in every for ms in t.first_update_ms),
        "rss_mib": _median(t.rss_mib for t in every if t.rss_mib is not None),
        "requests": sum(len(_last(of).asked) for of in trials.values()),
        "prompt_tokens": sum(_tokens(_last(of)) for of in trials.values()),
        "cached_share": _cached_share(every),
        "tokens_by_task": {task: _tokens(_last(of)) for task, of in trials.items()},
        "not_done": {task: _why(of) for task, of in trials.items() if task not in done},
    }


def ratios(trials: dict[str, Trials], figures: dict[str, Any], ours: str) -> dict[str, float | None]:
    """Return our figure over the best rival's, for each key of which less is better."""
    rivals = [name for name in figures if name != ours]
    if ours not in figures or not rivals:
        return {}
    found: dict[str, float | None] = {}
    for key in RATIOS:
        per_rival = [_ratio(key, trials, figures, ours, rival) for rival in rivals]
        known = [ratio for ratio in per_rival if ratio is not None]
        found[key] = round(max(known), 3) if known else None
    return found


def _ratio(
    key: str, trials: dict[str, Trials], figures: dict[str, Any], ours: str, rival: str
) -> float | None:
    mine, other = figures[ours][key], figures[rival][key]
    if key in {"requests", "prompt_tokens"}:
        both = [
            task
            for task in trials[ours]
            if all(t.done for t in [*trials[ours][task], *trials[rival].get(task, [])])
        ]
        count = _tokens if key == "prompt_tokens" else _requests
        mine = sum(count(_last(trials[ours][task])) for task in both)
        other = sum(count(_last(trials[rival][task])) for task in both)
    return mine / other if mine and other else None


def _last(of: list[Trial]) -> Trial:
    """Return the last trial: an agent may keep something from the first, such as what it has learned."""
    return of[-1]


def _tokens(trial: Trial) -> int:
    return sum(request.tokens for request in trial.asked)


def _requests(trial: Trial) -> int:
    return len(trial.asked)


def _cached_share(trials: list[Trial]) -> float | None:
    late = [r for t in trials for r in t.asked if r.place is not None and r.place.turn >= LATE_TURN]
    total = sum(len(request.prompt) for request in late)
    return round(sum(request.num_cached for request in late) / total, 3) if total else None


def _why(of: list[Trial]) -> str:
    return next((trial.why for trial in of if not trial.done), "")


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return round(statistics.median(found), 1) if found else None


def machine() -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "load": round(os.getloadavg()[0], 1),
    }


def table(result: dict[str, Any]) -> Iterator[str]:
    agents, found = result["agents"], result["ratios"]
    yield f"{'':18}" + "".join(f"{name:>15}" for name in agents) + f"{'ratio':>9}"
    for key in ("tasks_done", *RATIOS, "cached_share"):
        ratio = found.get(key)
        values = "".join(f"{figures[key]!s:>15}" for figures in agents.values())
        yield f"{key:18}{values}{ratio if ratio is not None else '':>9}"
    for name, figures in agents.items():
        for task, why in figures["not_done"].items():
            yield f"{name} did not do {task}: {why}"
    for name, why in result["missing"].items():
        yield f"{name} is missing: {why}"
