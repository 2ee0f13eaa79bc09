"""Measures parts on one device: python -m bench.gpu.worker --device cuda:0 [--smoke] PART=SECONDS …

Every case is on its own: one that fails is a result, and the next one runs. Only a device that can no longer
be trusted ends the process.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Callable, Iterator

import torch

from bench.budget import Budget
from bench.gpu.case import Case, LeftOutError, WrongError
from bench.gpu.lab import Lab
from bench.gpu.results import Result, send

POISONED = 70
# The module that yields the cases of each part.
MODULES = {
    "device": "facts",
    "parity": "parity",
    "decode": "decode",
    "weights": "weights",
    "prefill": "prefill",
    "sampler": "sampler",
    "guided": "guided",
    "decode-large": "decode",
    "engine": "engine",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", type=torch.device, required=True)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--within", type=float, help="seconds for all parts")
    parser.add_argument("parts", nargs="+")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    torch.set_grad_enabled(False)
    lab, whole = Lab(options.device, is_smoke=options.smoke), Budget(options.within)
    for part in options.parts:
        name, _, seconds = part.partition("=")
        send({"begin": name})
        run(name, lab, whole.slice(float(seconds)))
        send({"end": name})


def run(part: str, lab: Lab, budget: Budget) -> None:
    """Send a result for each case of a part, until its time is over."""
    lab.budget = budget
    try:
        cases: Callable[[str, Lab], Iterator[Case]] = importlib.import_module(
            f"bench.gpu.{MODULES[part]}"
        ).cases
        for case in cases(part, lab):
            if budget.left <= 0:
                send(Result(part, f"from {case.name} on", how=case.how, ok=None, note="no time left"))
                break
            result = measured(part, case)
            send(result)
            if not result.ok:
                lab.give_back()
    except torch.AcceleratorError as error:
        send(Result(part, "the device", ok=False, note=first_line(error)))
        sys.exit(POISONED)
    except Exception as error:
        logging.getLogger(__name__).exception("%s", part)
        send(Result(part, "the rest of it", ok=False, note=first_line(error)))
    lab.clear()


def measured(part: str, case: Case) -> Result:
    """The result of a case; a device's own errors are raised."""
    try:
        outcome = case.measure()
    except torch.AcceleratorError:
        raise
    except LeftOutError as reason:
        return Result(part, case.name, unit=case.unit, how=case.how, ok=None, note=str(reason))
    except WrongError as problem:
        return Result(part, case.name, problem.value, case.unit, case.how, ok=False, note=str(problem))
    except Exception as error:
        logging.getLogger(__name__).exception("%s: %s", part, case.name)
        return Result(part, case.name, unit=case.unit, how=case.how, ok=False, note=first_line(error))
    value, note = (None, outcome) if isinstance(outcome, str) else (outcome, "")
    return Result(part, case.name, value, case.unit, case.how, note=note)


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


if __name__ == "__main__":
    main()
