"""`helexa-acp check -- COMMAND`: does an agent keep the rules of the protocol?

Each rule gets a fresh process. The agent needs a model that answers, as prompts are part of it. Exit status
1 if a rule is broken.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from helexa_acp.conformance.peer import BrokenRule, Peer
from helexa_acp.conformance.rules import RULES, Case, NotOffered, Rule

USAGE = "usage: helexa-acp check [--timeout SECONDS] [--prompt TEXT] -- COMMAND [ARGUMENT...]\n"
TIMEOUT_S = 60.0
PROMPT = "Answer with one short sentence."


def main(argv: list[str]) -> int:
    timeout_s, prompt = TIMEOUT_S, PROMPT
    while argv and argv[0] != "--":
        match argv:
            case ["--timeout", seconds, *rest] if seconds.replace(".", "", 1).isdecimal():
                timeout_s, argv = float(seconds), rest
            case ["--prompt", text, *rest]:
                prompt, argv = text, rest
            case _:
                sys.stderr.write(USAGE)
                return 2
    command = argv[1:]
    if not command:
        sys.stderr.write(USAGE)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_examine(command, timeout_s, Path(folder).resolve(), prompt))


async def _examine(command: list[str], timeout_s: float, folder: Path, prompt: str) -> int:
    kept = offered = 0
    for rule in RULES:
        verdict = await _verdict(rule, command, timeout_s, folder, prompt)
        offered += verdict is not NotOffered
        kept += verdict is None
        mark = "ok  " if verdict is None else "    " if verdict is NotOffered else "FAIL"
        reason = (
            "" if verdict is None else " (not offered)" if verdict is NotOffered else f"\n       {verdict}"
        )
        sys.stdout.write(f"{mark} {rule.__doc__}{reason}\n")
        sys.stdout.flush()
    sys.stdout.write(f"\n{kept} of {offered} rules kept\n")
    return 0 if kept == offered else 1


async def _verdict(
    rule: Rule, command: list[str], timeout_s: float, folder: Path, prompt: str
) -> str | type[NotOffered] | None:
    """None if the rule is kept."""
    try:
        async with asyncio.timeout(3 * timeout_s), Peer(command, timeout_s) as peer:
            await rule(Case(peer, folder, prompt))
    except NotOffered:
        return NotOffered
    except BrokenRule as broken:
        return str(broken)
    except TimeoutError:
        return "it took too long"
    except OSError as error:
        return f"the agent cannot be started: {error}"
    except (KeyError, TypeError, AttributeError, ValueError, StopIteration) as error:
        return f"an answer has the wrong shape: {error!r}"
    return None
