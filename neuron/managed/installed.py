"""Which managed engines this host has: those whose program is there."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from functools import partial

from neuron.config import ManagedEngineSettings, NeuronConfig
from neuron.harness import Harness, HarnessContext
from neuron.managed.known import ENGINES

log = logging.getLogger("neuron.managed")


def installed(config: NeuronConfig) -> list[Callable[[HarnessContext], Harness]]:
    """A harness for each engine whose program is found; a configured one that is not is logged."""
    found: list[Callable[[HarnessContext], Harness]] = []
    settings: dict[str, ManagedEngineSettings] = {str(name): one for name, one in config.engines.items()}
    for engine in ENGINES:
        mine = settings.get(engine.name, ManagedEngineSettings())
        program = (mine.command or engine.command)[0]
        if shutil.which(program) is not None:
            from neuron.managed.harness import ManagedHarness  # noqa: PLC0415 - httpx takes 0.1 s

            found.append(partial(ManagedHarness, engine=engine, settings=mine))
        elif engine.name in settings:
            log.warning("engine is not installed", extra={"engine": engine.name, "program": program})
    return found
