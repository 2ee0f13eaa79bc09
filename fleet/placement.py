"""On which node a model is loaded: a pure function of what is known of the nodes.

Each node gets a verdict with a reason. First come nodes on which the model fits into free memory, then those
on which it fits after evictions, the least memory evicted first; among equals those without an active
operation, then the one with the most free memory, then the first by name. A pinned model goes to its nodes
and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from fleet import evictor
from fleet.evictor import Resident, Strategy


class Outlook(StrEnum):
    """Whether a model can be loaded on a node, the best first."""

    FITS = "fits"
    EVICTS = "fits after eviction"
    BUSY = "busy"  # it would fit after a request or an operation has ended
    DOWN = "down"  # it might fit if the node or its devices were there
    INFEASIBLE = "infeasible"


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    index: int
    total_mb: int
    free_mb: int
    ready: bool = True
    claimed: bool = False  # by a running operation


@dataclass(frozen=True, slots=True)
class NodeFacts:
    name: str
    devices: Sequence[DeviceFacts] = ()
    residents: Sequence[Resident] = ()
    healthy: bool = True
    cordoned: bool = False  # nothing new is loaded here
    harnesses: frozenset[str] = frozenset({"torch"})
    labels: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Need:
    """What a model needs of a node."""

    model: str
    memory_mb: int = 0  # over all its devices; 0: not known yet
    min_devices: int = 1
    min_device_mb: int = 0
    priority: int = 100
    harness: str = "torch"
    labels: frozenset[str] = frozenset()
    pinned_on: frozenset[str] = frozenset()

    @property
    def per_device_mb(self) -> int:
        return -(-self.memory_mb // self.min_devices)


@dataclass(frozen=True, slots=True)
class NodeVerdict:
    """The judgement of one node."""

    node: str
    outlook: Outlook
    reason: str
    devices: tuple[int, ...] = ()
    victims: tuple[Resident, ...] = ()
    free_mb: int = 0  # on those devices
    claimed: bool = False

    @property
    def evicted_mb(self) -> int:
        return sum(victim.total_mb for victim in self.victims)

    @property
    def touched(self) -> set[int]:
        """The devices that the load or its evictions use."""
        return set(self.devices).union(*(victim.memory_mb for victim in self.victims))


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict that was chosen, if one was, the best outlook, and all verdicts, the best first."""

    chosen: NodeVerdict | None
    outlook: Outlook
    verdicts: tuple[NodeVerdict, ...]


def place(need: Need, nodes: Iterable[NodeFacts], strategy: Strategy) -> Decision:
    """The decision for one load."""
    verdicts = sorted((judge(need, node, strategy) for node in nodes), key=_rank)
    if not verdicts:
        return Decision(None, Outlook.INFEASIBLE, ())
    best = verdicts[0]
    if best.outlook not in {Outlook.FITS, Outlook.EVICTS}:
        return Decision(None, best.outlook, tuple(verdicts))
    if best.claimed:
        return Decision(None, Outlook.BUSY, tuple(verdicts))
    return Decision(best, best.outlook, tuple(verdicts))


def _rank(verdict: NodeVerdict) -> tuple[int, int, bool, int, str]:
    order = list(Outlook).index(verdict.outlook)
    return order, verdict.evicted_mb, verdict.claimed, -verdict.free_mb, verdict.node


def judge(need: Need, node: NodeFacts, strategy: Strategy) -> NodeVerdict:
    """The verdict on one node."""
    if reason := _forbidden(need, node):
        return NodeVerdict(node.name, Outlook.INFEASIBLE, reason)
    if not node.healthy:
        return NodeVerdict(node.name, Outlook.DOWN, "the node does not answer")
    if any(resident.model == need.model for resident in node.residents):
        return NodeVerdict(node.name, Outlook.BUSY, "the model is on its way in or out there")
    floor = max(need.min_device_mb, need.per_device_mb)
    large = [device for device in node.devices if device.total_mb >= floor]
    if len(large) < need.min_devices:
        reason = f"needs {need.min_devices} device(s) of {floor} MiB, has {len(large)}"
        return NodeVerdict(node.name, Outlook.INFEASIBLE, reason)
    ready = [device for device in large if device.ready]
    if len(ready) < need.min_devices:
        return NodeVerdict(node.name, Outlook.DOWN, "its devices are not ready")
    now = evictor.displaceable(node.residents, need.priority)
    if found := _make_room(need, ready, now, strategy):
        return _fitting(node, *found)
    later = [resident for resident in node.residents if resident.may_yield_to(need.priority)]
    if _make_room(need, ready, later, strategy):
        reason = "waits for models that are in use or have just been loaded"
        return NodeVerdict(node.name, Outlook.BUSY, reason)
    if any(device.claimed for device in ready):
        return NodeVerdict(node.name, Outlook.BUSY, "waits for a running operation")
    most = max(device.free_mb for device in ready)
    reason = f"needs {need.per_device_mb} MiB per device; {most} MiB are free, nothing else may be evicted"
    return NodeVerdict(node.name, Outlook.INFEASIBLE, reason)


def _forbidden(need: Need, node: NodeFacts) -> str:
    if node.cordoned:
        return "is cordoned"
    if need.pinned_on and node.name not in need.pinned_on:
        return f"pinned on {', '.join(sorted(need.pinned_on))}"
    if missing := need.labels - node.labels:
        return f"has no label {', '.join(sorted(missing))}"
    if node.healthy and need.harness not in node.harnesses:
        return f"has no harness {need.harness!r}"
    if any(resident.model == need.model and not resident.moving for resident in node.residents):
        return "has the model already"
    return ""


Room = tuple[list[DeviceFacts], tuple[Resident, ...]]


def _make_room(
    need: Need, devices: Sequence[DeviceFacts], candidates: Sequence[Resident], strategy: Strategy
) -> Room | None:
    """The devices to use and the models to evict; None if evicting all candidates frees too little."""

    def deficit(device: DeviceFacts) -> int:
        return max(0, need.per_device_mb - device.free_mb)

    options: list[tuple[tuple[int, bool, int, int], DeviceFacts]] = []
    for device in devices:
        victims = evictor.choose(candidates, {device.index: deficit(device)}, strategy)
        if victims is not None:
            cost = sum(victim.total_mb for victim in victims)
            options.append(((cost, device.claimed, -device.free_mb, device.index), device))
    if len(options) < need.min_devices:
        return None
    chosen = [device for _, device in sorted(options, key=lambda option: option[0])[: need.min_devices]]
    deficits = {device.index: deficit(device) for device in chosen}
    together = evictor.choose(candidates, deficits, strategy)
    assert together is not None  # each device alone had enough candidates
    return chosen, together


def _fitting(node: NodeFacts, devices: Sequence[DeviceFacts], victims: tuple[Resident, ...]) -> NodeVerdict:
    free = sum(device.free_mb for device in devices)
    claimed = {device.index for device in node.devices if device.claimed}
    outlook = Outlook.FITS
    reason = f"{free} MiB free"
    if victims:
        outlook = Outlook.EVICTS
        reason += f", evicting {', '.join(victim.model for victim in victims)}"
    verdict = NodeVerdict(
        node.name,
        outlook,
        reason,
        devices=tuple(sorted(device.index for device in devices)),
        victims=victims,
        free_mb=free,
    )
    return replace(verdict, claimed=bool(verdict.touched & claimed))
