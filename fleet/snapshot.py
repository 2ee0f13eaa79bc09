# cython: language_level=3, annotation_typing=False
"""What a data-plane worker knows of the fleet: frozen values, replaced whole, never changed.

A `Configuration` is what the database says (nodes, profiles, aliases, keys); it changes when an operator
acts. A `NodeView` is what a node last said of itself; it changes with every event. A `FleetSnapshot` joins
the two. Nothing here does I/O, knows Django or reads a clock.
"""

from __future__ import annotations

import re
from bisect import insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import urlsplit

from fleet.key_limits import KeyLimits

EMPTY: Mapping[str, Any] = MappingProxyType({})


def _empty() -> Mapping[str, Any]:
    return EMPTY


_VERSIONED = re.compile(r"/v\d\w*(/|$)")


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """A neuron, or another OpenAI-compatible server, as the operator configured it."""

    name: str
    endpoint: str  # http://host:port, of a server its base URL; no trailing slash
    token: str | None = field(default=None, repr=False)
    kind: Literal["neuron", "openai"] = "neuron"
    models: Mapping[str, str] = field(
        default_factory=_empty
    )  # the fleet's name of a model → the server's; empty: all it has
    max_requests: int | None = None  # of one gateway at once
    first_byte_timeout_s: float | None = None  # None: the gateway's
    idle_timeout_s: float | None = None

    @property
    def is_foreign(self) -> bool:
        """Whether it is no neuron: it has no lifecycle and is told nothing of the fleet."""
        return self.kind != "neuron"

    @property
    def base(self) -> str:
        """The URL below which requests are sent."""
        return self.endpoint.removesuffix("/v1") if self.is_foreign else self.endpoint

    def path(self, path: str) -> str:
        """`path` (`/v1/…`) on this node, whose base URL may end in its own version (`/v1beta/openai`)."""
        if self.is_foreign and _VERSIONED.search(urlsplit(self.base).path):
            return path.removeprefix("/v1")
        return path


@dataclass(frozen=True, slots=True)
class ProfileView:
    """A model of the catalogue, as far as clients and routing need it."""

    id: str
    context: int | None = None
    output: int | None = None
    capabilities: tuple[str, ...] = ()
    cost: Mapping[str, float] = field(default_factory=_empty)  # US dollars per million tokens, by kind


@dataclass(frozen=True, slots=True)
class KeyView:
    """An API key without its secret."""

    name: str
    digest: str  # SHA-256 of the whole key, hex
    models: tuple[str, ...] = ()  # globs; empty allows every model
    expires_at: float | None = None  # seconds since the epoch
    disabled: bool = False
    priority: int = 0
    limits: KeyLimits = field(default_factory=KeyLimits)
    # By these neurons share a busy model. The beginning of a digest reveals nothing of the key.
    caller_lines: bytes = field(default=b"", init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        lines = f"x-cortex-principal: {self.digest[:16]}\r\nx-cortex-priority: {self.priority}\r\n"
        object.__setattr__(self, "caller_lines", lines.encode())

    def allows(self, model: str) -> bool:
        return not self.models or any(fnmatchcase(model, pattern) for pattern in self.models)


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the control plane configured, at one version."""

    version: int = 0
    nodes: Mapping[str, NodeConfig] = field(default_factory=_empty)
    profiles: Mapping[str, ProfileView] = field(default_factory=_empty)
    aliases: Mapping[str, str] = field(default_factory=_empty)
    keys: Mapping[str, KeyView] = field(default_factory=_empty)  # by digest
    has_keys: bool = False  # true even when all are disabled: protected mode is over


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model on one node, as the node last reported it."""

    id: str
    state: str  # loading | loaded | unloading | failed
    context: int | None = None
    memory_mb: int | None = None
    format: str = ""  # that most of its weights are stored in
    bits_per_weight: float | None = None
    progress: float | None = None
    capabilities: tuple[str, ...] = ()
    error: str | None = None
    running: int = 0
    waiting: int = 0
    max_running: int = 0  # 0: not reported
    tok_s_prefill: float = 0.0  # prompt tokens a second; 0: not reported
    kv_free: float | None = None  # fraction of the KV cache's pages; None: not reported
    prefixes: frozenset[int] = frozenset()  # of prompts in its cache: `neuron.wire.prefix_marks`


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node, as it last reported. It is not `healthy` before its first report and while it is silent."""

    config: NodeConfig
    healthy: bool = False
    reason: str | None = "not reached yet"
    models: Mapping[str, ModelView] = field(default_factory=_empty)
    in_flight: int = 0  # this worker's requests there at the time of the report
    name: str = field(init=False, repr=False, compare=False)  # the configuration's

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.config.name)

    def offered(self) -> tuple[bool, list[tuple[str, str, tuple[str, ...], int | None]]]:
        """All of it that a `ModelOffer` depends on."""
        views = self.models.items()
        return self.healthy, [(model, view.state, view.capabilities, view.context) for model, view in views]

    def answering(self) -> Iterator[tuple[str, ModelView]]:
        """The models that can answer here now."""
        return (
            (model, view) for model, view in self.models.items() if self.healthy and view.state == "loaded"
        )


Replicas = tuple[tuple[NodeView, ModelView], ...]


def _replaced(pairs: Replicas, node: NodeView, view: ModelView | None) -> Replicas:
    """The replicas of one model, by node name, with the one on `node` replaced; removed for None."""
    kept = [pair for pair in pairs if pair[0].name != node.name]
    if view is not None:
        insort(kept, (node, view), key=lambda pair: pair[0].name)
    return tuple(kept)


@dataclass(frozen=True, slots=True)
class ModelOffer:
    """What the fleet offers under a model's name."""

    capabilities: tuple[str, ...]  # by its nodes, else by its profile; empty: not known
    context: int | None  # the longest prompt plus answer that any replica takes, tokens


@dataclass(frozen=True, slots=True)
class FleetSnapshot:
    """Everything that a request is routed by."""

    configuration: Configuration = Configuration()
    nodes: Mapping[str, NodeView] = field(default_factory=_empty)
    _replicas: Mapping[str, Replicas] = field(default_factory=_empty, init=False, repr=False, compare=False)
    _offers: dict[str, ModelOffer] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        index: dict[str, list[tuple[NodeView, ModelView]]] = {}
        for _, node in sorted(self.nodes.items()):
            for model, view in node.answering():
                index.setdefault(model, []).append((node, view))
        self._set_replicas({model: tuple(pairs) for model, pairs in index.items()})

    def _set_replicas(self, index: dict[str, Replicas]) -> None:
        object.__setattr__(self, "_replicas", MappingProxyType(index))

    def with_node(self, node: NodeView) -> FleetSnapshot:
        """This snapshot with one node's view replaced. Only that node's models are indexed anew."""
        old = self.nodes.get(node.name)
        before = dict(old.answering()) if old is not None else {}
        after = dict(node.answering())
        index = dict(self._replicas)
        for model in before.keys() | after.keys():
            if before.get(model) != after.get(model):
                index[model] = _replaced(index.get(model, ()), node, after.get(model))
        new = FleetSnapshot.__new__(FleetSnapshot)
        object.__setattr__(new, "configuration", self.configuration)
        object.__setattr__(new, "nodes", MappingProxyType({**self.nodes, node.name: node}))
        is_same = old is not None and old.offered() == node.offered()  # a report of its load, most often
        object.__setattr__(new, "_offers", self._offers if is_same else {})
        new._set_replicas(index)  # noqa: SLF001 - its own class
        return new

    def resolve(self, model: str) -> str:
        """The model behind an alias, one hop; any other name, and a model's own, unchanged."""
        return model if model in self.configuration.profiles else self.configuration.aliases.get(model, model)

    def replicas(self, model: str) -> Replicas:
        """The replicas that can answer for the (resolved) model now, by node name."""
        return self._replicas.get(model, ())

    def replica(self, model: str, name: str) -> tuple[NodeView, ModelView] | None:
        """The replica of the (resolved) model on one node, if it can answer now."""
        node = self.nodes.get(name)
        view = node.models.get(model) if node is not None and node.healthy else None
        return (node, view) if node is not None and view is not None and view.state == "loaded" else None

    def placements(self, model: str) -> list[tuple[NodeView, ModelView]]:
        """Every node that reports the (resolved) model in any state, by node name."""
        return [
            (node, view)
            for _, node in sorted(self.nodes.items())
            if (view := node.models.get(model)) is not None
        ]

    def knows(self, model: str) -> bool:
        """Whether the (resolved) model is loaded or could be."""
        return self.offer(model) is not None

    def offer(self, model: str) -> ModelOffer | None:
        """The offer of the (resolved) model; None when it is neither loaded nor could be. Cached."""
        offer = self._offers.get(model)
        if offer is None and (offer := self._offer(model)) is not None:
            self._offers[model] = offer
        return offer

    def _offer(self, model: str) -> ModelOffer | None:
        placements = self.placements(model)
        profile = self.configuration.profiles.get(model)
        if profile is None and not placements:
            return None
        said = {name for node, view in placements if node.healthy for name in view.capabilities}
        contexts = [view.context for _, view in self.replicas(model) if view.context]
        return ModelOffer(
            capabilities=tuple(sorted(said)) or (profile.capabilities if profile else ()),
            context=max(contexts, default=profile.context if profile else None),
        )

    @property
    def has_healthy_node(self) -> bool:
        return any(node.healthy for node in self.nodes.values())
