"""`helexa-acp check -- COMMAND`: does an agent keep the rules of the protocol?

Each rule gets a fresh process. Prompts are part of it, so the agent needs a model that answers. The exit
status is 1 if a rule is broken.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from helexa_acp.conformance.agent_under_test import AgentUnderTest, BrokenRule
from helexa_acp.conformance.rules import RULES, NotOffered, Rule

USAGE = "usage: helexa-acp check [--timeout SECONDS] [--prompt TEXT] -- COMMAND [ARGUMENT...]\n"
TIMEOUT_S = 60.0
PROMPT = "Answer with one short sentence."

MakeAgent = Callable[[], AgentUnderTest]


def main(argv: list[str]) -> int:
    timeout_s = TIMEOUT_S
    prompt = PROMPT
    while argv and argv[0] != "--":
        match argv:
            case ["--timeout", seconds, *rest] if seconds.replace(".", "", 1).isdecimal():
                timeout_s = float(seconds)
            case ["--prompt", prompt, *rest]:
                pass
            case _:
                return _usage()
        argv = rest
    command = argv[1:]
    if not command:
        return _usage()
    with tempfile.TemporaryDirectory() as folder:
        cwd = Path(folder).resolve()
        return asyncio.run(_check(lambda: AgentUnderTest(command, cwd, prompt, timeout_s)))


def _usage() -> int:
    sys.stderr.write(USAGE)
    return 2


async def _check(make_agent: MakeAgent) -> int:
    """Print the verdict on each rule and the score, and return the exit status."""
    kept = 0
    offered = len(RULES)
    for rule in RULES:
        try:
            await _examine(rule, make_agent())
        except NotOffered:
            offered -= 1
            _report("    ", rule, " (not offered)")
        except BrokenRule as broken:
            _report("FAIL", rule, f"\n       {broken}")
        else:
            kept += 1
            _report("ok  ", rule)
    sys.stdout.write(f"\n{kept} of {offered} rules kept\n")
    return 0 if kept == offered else 1


def _report(mark: str, rule: Rule, reason: str = "") -> None:
    sys.stdout.write(f"{mark} {rule.__doc__}{reason}\n")
    sys.stdout.flush()


async def _examine(rule: Rule, agent: AgentUnderTest) -> None:
    """Run a rule on a fresh agent. Raises NotOffered, and BrokenRule whichever way the rule fails."""
    try:
        async with asyncio.timeout(3 * agent.timeout_s), agent:
            await rule(agent)
    except TimeoutError:
        raise BrokenRule("it took too long") from None
    except OSError as error:
        raise BrokenRule(f"the agent cannot be started: {error}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BrokenRule(f"an answer has the wrong shape: {error!r}") from error
