"""Compare agents: ten tasks each, by acpx, with a scripted model on loopback.

    python -m bench.agents [--json] [--out FILE] [--cache DIR] [--agents NAMES] [--tasks NAMES] [--runs N]
    python -m bench.agents --smoke --acpx FILE     helexa-acp alone, as it stands here, once

The agents are installed into the cache, from npm and PyPI. The result has for each agent:

    tasks_done       of ten
    initialize_ms    from the start of the process to the answer to `initialize`: the median of all
    first_update_ms  from the first text that the endpoint sends to the first update with text: the median
    rss_mib          resident memory of the agent and its children at the end of a turn: the tasks' median
    requests         for completions, in all tasks
    prompt_tokens    of these requests, at four bytes a token
    cached_share     what of the prompts from the third turn on the endpoint had seen as a prompt's start
    not_done         the tasks that were not done, and what was told

and `ratios`: helexa-acp's figure over that of the best rival; requests and prompts of the tasks both did.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

from bench.agents import contenders
from bench.agents.client import Bed, Trial, environment
from bench.agents.contenders import CONTENDERS, OURS, Contender, NotInstalledError
from bench.agents.endpoint import Endpoint
from bench.agents.figures import Trials, figures_of, machine, ratios, table
from bench.agents.tasks import TASKS, Task

CACHE = Path.home() / ".cache" / "helexa-acp-bench"


def main() -> int:
    options = _options()
    result = asyncio.run(compare(options))
    text = json.dumps(result)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(text if options.json else "\n".join(table(result)))
    done = result["agents"].get(OURS, {}).get("tasks_done")
    return 0 if done == len(options.tasks) else 1


def _path(text: str) -> Path:
    return Path(text).resolve()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.agents", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print the result alone, as one line")
    parser.add_argument("--out", type=Path, help="write the result there, too")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where agents are installed")
    parser.add_argument(
        "--acpx", type=lambda path: Path(path).resolve(), help="acpx's cli.js, instead of one in the cache"
    )
    parser.add_argument("--agents", default=",".join(CONTENDERS), help="those to compare")
    parser.add_argument("--tasks", default=",".join(task.name for task in TASKS))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="helexa-acp alone, from this tree, once")
    options = parser.parse_args()
    options.tasks = [task for task in TASKS if task.name in options.tasks.split(",")]
    names = options.agents.split(",")
    if unknown := set(names) - CONTENDERS.keys():
        parser.error(f"--agents: {min(unknown)!r} is none of {', '.join(CONTENDERS)}")
    options.agents = [CONTENDERS[name] for name in names]
    if options.smoke:
        options.agents, options.runs = [contenders.here()], 1
    return options


async def compare(options: argparse.Namespace) -> dict[str, Any]:
    client = options.acpx or contenders.acpx(options.cache)
    commands, missing = _installed(options)
    agents = [contender for contender in options.agents if contender.name in commands]
    trials: dict[str, Trials] = {agent.name: {} for agent in agents}
    for run in range(options.runs):  # the agents take turns, so that the machine's load affects all
        for agent in agents:
            shares = [[task] for task in options.tasks] if options.smoke else [options.tasks]
            shared = await asyncio.gather(
                *(_tasks(agent, commands[agent.name], client, tasks) for tasks in shares)
            )
            for task, trial in (pair for pairs in shared for pair in pairs):
                trials[agent.name].setdefault(task.name, []).append(trial)
                _tell(options, agent.name, task.name, run, trial)
    figures = {name: figures_of(of) for name, of in trials.items()}
    packages = {contender.name: contender.package for contender in options.agents if contender.package}
    return {
        "bench": "agents",
        "runs": options.runs,
        "machine": machine(),
        "packages": {"acpx": contenders.ACPX, **packages},
        "agents": figures,
        "ratios": ratios(trials, figures, OURS),
        "missing": missing,
    }


def _installed(options: argparse.Namespace) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return the command of each agent that could be installed, and why the others could not."""
    commands: dict[str, list[str]] = {}
    missing: dict[str, str] = {}
    for contender in options.agents:
        try:
            commands[contender.name] = contender.install(options.cache)
        except NotInstalledError as error:
            missing[contender.name] = str(error)
    return commands, missing


async def _tasks(
    agent: Contender, command: list[str], client: Path, tasks: list[Task]
) -> list[tuple[Task, Trial]]:
    """Run the tasks one after the other, with a home and an endpoint of their own."""
    with tempfile.TemporaryDirectory(prefix="acp-bench-") as folder:
        root = Path(folder)
        async with Endpoint() as endpoint:
            env = environment(root / "home", agent.configure(root / "home", endpoint.url))
            bed = Bed(command, env, client, endpoint, root)
            return [(task, await bed.run(task)) for task in tasks]


def _tell(options: argparse.Namespace, agent: str, task: str, run: int, trial: Trial) -> None:
    if not options.json:
        state = "done" if trial.done else f"NOT DONE {trial.why}"
        print(f"{run + 1} {agent:14} {task:12} {state}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
