"""Contradictions and useless settings in a configuration, which is loaded all the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cortex_site.base.certificate import CertificateError, trusting
from cortex_site.base.settings_file import line_of
from cortex_site.config.cortex_toml import CortexConfig
from cortex_site.config.heads import family_of, heads_of
from cortex_site.config.models_toml import DEFAULT_PRIORITY, TORCH, Catalogue, Profile
from neuron.split_heads import family_problem, heads_problem

Loc = tuple[str | int, ...]
Found = Iterator[tuple[Loc, str]]  # place and sentence


@dataclass(frozen=True, slots=True)
class KnownNode:
    """The facts of a node that a profile can contradict."""

    name: str
    foreign: bool = False  # no neuron: cortex loads nothing there
    devices_mb: Sequence[int] = field(default_factory=tuple)  # empty: unknown
    harnesses: frozenset[str] = frozenset()  # empty: unknown
    labels: frozenset[str] = frozenset()


def warnings(config: CortexConfig, catalogue: Catalogue, hosts: Sequence[KnownNode] = ()) -> list[str]:
    """The warnings about certificates, and about `models.toml` as `FILE:LINE: key: sentence`.

    `hosts` adds nodes of no file.
    """
    path = config.models_config
    text = _text(path)
    return [
        *tls_objections(config),
        *(_placed(path, text, loc, what) for loc, what in _all(config, catalogue, _hosts(config, hosts))),
    ]


def tls_objections(config: CortexConfig) -> list[str]:
    """Why the files of certificates cannot be used as they are now; a running cortex keeps those before."""
    found = []
    if (objection := config.gateway.tls_objection()) is not None:
        found.append(f"gateway.tls_cert, tls_key: {objection}")
    try:
        if config.gateway.node_ca is not None:
            trusting(config.gateway.node_ca)
    except CertificateError as error:
        found.append(f"gateway.node_ca: {error}")
    return found


def of_profile(profile: Profile, config: CortexConfig, hosts: Sequence[KnownNode]) -> list[tuple[str, str]]:
    """The key and sentence of each contradiction in one profile, wherever it is configured."""
    known = _hosts(config, hosts)
    return [*_of_one(profile, known)]


def _of_one(profile: Profile, hosts: dict[str, KnownNode]) -> Iterator[tuple[str, str]]:
    yield from _of_places(profile, hosts)
    yield from _of_sizes(profile, hosts)
    yield from _of_split(profile)
    yield from _of_time(profile)


def _hosts(config: CortexConfig, known: Sequence[KnownNode]) -> dict[str, KnownNode]:
    named = {
        neuron.name: KnownNode(neuron.name, foreign=neuron.kind == "openai", labels=frozenset(neuron.labels))
        for neuron in config.neurons
    }
    return named | {host.name: host for host in known}


def _text(path: Path | None) -> str:
    try:
        return path.read_text() if path else ""
    except (OSError, UnicodeDecodeError):
        return ""


def _placed(path: Path | None, text: str, loc: Loc, what: str) -> str:
    line = line_of(text, loc)
    key = ".".join(str(part) for part in loc)
    place = f"{path}:{line}: " if path and line else f"{path}: " if path else ""
    return f"{place}{key}: {what}"


def _all(config: CortexConfig, catalogue: Catalogue, hosts: dict[str, KnownNode]) -> Found:
    yield from _doubled(catalogue)
    kept = {id(profile) for profile in catalogue.profiles}
    for index, profile in enumerate(catalogue.models):
        if id(profile) in kept:
            for key, what in _of_one(profile, hosts):
                yield ("models", index, key), what
    yield from _of_aliases(catalogue)
    priorities = {profile.priority for profile in catalogue.profiles}
    if config.eviction.strategy == "priority" and catalogue.profiles and len(priorities) == 1:
        what = 'no model differs in residency_priority: strategy = "priority" evicts as "lru" does'
        yield ("models",), what


def _doubled(catalogue: Catalogue) -> Found:
    seen: Counter[str] = Counter()
    for index, profile in enumerate(catalogue.models):
        if seen[profile.id]:
            yield ("models", index, "id"), f"{profile.id!r} is there already; this one is left out"
        seen[profile.id] += 1


def _of_places(profile: Profile, hosts: dict[str, KnownNode]) -> Iterator[tuple[str, str]]:
    for name in profile.pinned_on:
        if name not in hosts:
            yield "pinned_on", f"there is no node {name!r}: {profile.id} is not loaded before it is there"
        elif hosts[name].foreign:
            yield "pinned_on", f"{name!r} is no neuron: nothing is loaded there"
    neurons = [host for host in hosts.values() if not host.foreign]
    places = len(set(profile.pinned_on)) or len(neurons)
    if hosts and profile.replicas > places:
        where = "pinned_on names" if profile.pinned_on else "there are"
        yield "replicas", f"{profile.replicas} replicas, but {where} {places} node(s): one each"
    wanted = frozenset(profile.labels)
    if wanted and hosts and not any(wanted <= host.labels for host in neurons):
        yield "labels", f"no node has {', '.join(sorted(wanted))}: {profile.id} is loaded nowhere"
    harnesses = frozenset().union(*(host.harnesses for host in neurons))
    if harnesses and profile.harness not in harnesses:
        yield "harness", f"no node has {profile.harness!r}; there is {', '.join(sorted(harnesses))}"


def _of_sizes(profile: Profile, hosts: dict[str, KnownNode]) -> Iterator[tuple[str, str]]:
    """Contradictions with the sizes of the nodes that may load it; none while one of them is unknown."""
    allowed = [host for host in hosts.values() if not host.foreign]
    if profile.pinned_on:
        allowed = [host for host in allowed if host.name in profile.pinned_on]
    if not allowed or not all(host.devices_mb for host in allowed):
        return
    most = max(len(host.devices_mb) for host in allowed)
    largest = max(max(host.devices_mb) for host in allowed)
    room = max(sum(host.devices_mb) for host in allowed)
    if (profile.tensor_parallel or 0) > most:
        needed = profile.tensor_parallel
        yield "tensor_parallel", f"needs {needed} devices; the most that a node has is {most}"
    if profile.min_devices > most:
        yield "min_devices", f"needs {profile.min_devices} devices; the most that a node has is {most}"
    if (profile.min_device_vram_mb or 0) > largest:
        needed = profile.min_device_vram_mb
        yield "min_device_vram_mb", f"needs a device of {needed} MiB; the largest has {largest}"
    if (profile.vram_mb or 0) > room:
        yield "vram_mb", f"needs {profile.vram_mb} MiB; the most that a node has is {room}"


def _of_split(profile: Profile) -> Iterator[tuple[str, str]]:
    wanted = profile.tensor_parallel
    if profile.options and profile.harness == TORCH:
        yield "options", f"mean nothing: they are for managed engines, and the harness is {TORCH!r}"
    if wanted is None:
        return
    if profile.min_devices > 1 and profile.min_devices != wanted:
        yield "min_devices", f"means nothing: tensor_parallel says {wanted}"
    source = profile.source or profile.id
    family = family_of(source) if wanted > 1 and profile.harness == TORCH else None
    if family and (problem := family_problem(family.model_type)):
        yield "tensor_parallel", f"{family.file}: {problem}"
    elif (found := heads_of(source)) and (problem := heads_problem(found.heads, found.kv_heads, wanted)):
        yield "tensor_parallel", f"{found.file}: {problem}"


def _of_time(profile: Profile) -> Iterator[tuple[str, str]]:
    stays = profile.pinned or bool(profile.pinned_on)
    if stays and profile.ttl_s is not None:
        yield "ttl_s", "means nothing: a pinned model is not unloaded for being idle"
    if profile.pinned and profile.priority < DEFAULT_PRIORITY:
        yield "residency_priority", "protects nothing: the model is pinned; it only may displace less"
    if profile.ttl_s is not None and profile.min_residency_s > profile.ttl_s:
        yield "min_residency_s", f"is longer than ttl_s: unused it leaves after {profile.ttl_s} s"
    limit = profile.limit
    if limit and limit.output and limit.context and limit.output > limit.context:
        yield "limit", f"an answer of {limit.output} tokens does not fit a context of {limit.context}"


def _of_aliases(catalogue: Catalogue) -> Found:
    ids = {profile.id for profile in catalogue.models}
    for name, target in catalogue.aliases.items():
        if name in ids:
            yield ("aliases", name), "is a model's id: the model is meant, the alias is left out"
        elif target not in ids and target in catalogue.aliases:
            yield ("aliases", name), f"{target!r} is an alias itself; aliases are followed once"
        elif target not in ids:
            yield ("aliases", name), f"there is no model {target!r} in [[models]]"
