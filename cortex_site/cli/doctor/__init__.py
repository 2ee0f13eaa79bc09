"""`cortex doctor`: whether what a configuration names is there and works, and what to do where it is not.

Each look yields `Finding`s and starts nothing. A finding without a cure is well.
"""

from __future__ import annotations

from collections.abc import Iterator

from cortex_site.cli.doctor import machine, nodes, services
from cortex_site.cli.doctor.finding import Finding
from cortex_site.cli.operator_api import read_state
from cortex_site.config.cortex_toml import CortexConfig, NeuronEntry


def diagnose(config: CortexConfig) -> Iterator[Finding]:
    """Look at this machine, then at what it needs, then at the nodes."""
    config = _as_it_runs(config)
    yield from machine.ports(config)
    yield from machine.home(config)
    yield from machine.gpus()
    yield from services.redis_server(config)
    yield from services.database(config)
    yield from nodes.all_of(config)


def _as_it_runs(config: CortexConfig) -> CortexConfig:
    """The configuration with what a `cortex up` that runs on its state directory adds: Redis and a neuron."""
    state = read_state(config.home)
    if "redis" not in state or not machine.family(config.home):
        return config
    redis = config.redis.model_copy(update={"url": state["redis"]})
    local = NeuronEntry(name="local", endpoint=state["neuron"])
    return config.model_copy(update={"redis": redis, "neurons": [*config.neurons, local]})
