"""`cortex check`: what a configuration does, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator

from cortex_site.cli.operator_api import OperatorApi, OperatorError
from cortex_site.config import contradictions
from cortex_site.config.cortex_toml import CortexConfig
from cortex_site.config.models_toml import Catalogue, Profile

PATIENCE_S = 2.0


def describe(config: CortexConfig, catalogue: Catalogue) -> Iterator[str]:
    """The lines to print: effects first, then warnings."""
    gateway = config.gateway
    spoken = ", TLS" if gateway.speaks_tls else ""
    yield f"API on {gateway.listen} ({gateway.workers} worker(s){spoken})"
    yield f"metrics on {gateway.metrics_listen}, admin on {gateway.admin_listen}"
    yield f"state in {config.home}; database: {'PostgreSQL' if config.database.url else 'SQLite'}"
    yield f"eviction by {config.eviction.strategy}, defrag after {config.eviction.defrag_after_cycles} cycles"
    for neuron in config.neurons:
        what = "server" if neuron.kind == "openai" else "node"
        yield f"{what} {neuron.name} at {neuron.endpoint}"
    for profile in catalogue.profiles:
        yield f"model {profile.id}: {_placement(profile)}"
    for alias, target in sorted(catalogue.other_names.items()):
        yield f"alias {alias} for {target}"
    found = list(warnings(config, catalogue))
    for warning in [*found, *(line for line in of_fleet(config) if line not in found)]:
        yield f"warning: {warning}"


def _placement(profile: Profile) -> str:
    where = f"on {', '.join(profile.pinned_on)}" if profile.pinned_on else "on any node"
    labels = f" with {', '.join(profile.labels)}" if profile.labels else ""
    memory = f", {profile.vram_mb} MB" if profile.vram_mb else ""
    devices = f", {profile.min_devices} devices" if profile.min_devices > 1 else ""
    if profile.tensor_parallel is not None:
        devices = f", split over {profile.tensor_parallel} device(s)"
    pinned = ", never evicted" if profile.pinned or profile.pinned_on else ""
    return f"loaded on demand {where}{labels}{memory}{devices}{pinned}"


def warnings(config: CortexConfig, catalogue: Catalogue) -> Iterator[str]:
    """The contradictions in a configuration, as sentences with key and cure."""
    if not config.neurons:
        yield "no [[neurons]]: nothing can be served until a node is added here, in the admin or joins"
    yield from contradictions.warnings(config, catalogue)
    if config.is_exposed and not config.gateway.allow_anonymous:
        listen = config.gateway.listen
        yield f"gateway.listen: {listen} is open to other machines; without a key only loopback is served"


def of_fleet(config: CortexConfig) -> list[str]:
    """The warnings of a running cortex, which knows its nodes; empty when none answers."""
    try:
        return list(OperatorApi(config, timeout_s=PATIENCE_S).get("/warnings"))
    except OperatorError:
        return []
