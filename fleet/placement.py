"""On which node a model is loaded: a pure function of what is known of the nodes.

Each node gets a verdict with a reason. First come nodes on which the model fits into free memory, then those
on which it fits after evictions; among equals those in whose host memory it is asleep, then the least memory
evicted, then those without an active operation, then the one with the most free memory, then the first by
name. A pinned model goes to its nodes and nowhere else.

A model that its profile splits (tensor parallel), or that fits no single device of a node, takes several: an
equal part of its memory of each. Whatever it evicts there leaves all of its own devices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import combinations
from math import comb

from fleet import evictor
from fleet.evictor import Resident, Strategy

MAX_DEVICES = 16  # that a model is split over without being told to
MAX_SETS = 500  # of devices that are compared; of larger nodes the best devices are


class Outlook(StrEnum):
    """Whether a model can be loaded on a node, the best first."""

    FITS = "fits"
    EVICTS = "fits after eviction"
    BUSY = "busy"  # it would fit after a request or an operation has ended
    STARTING = "starting"  # it might fit once devices have started
    DOWN = "down"  # it might fit if the node or its devices were there
    INFEASIBLE = "infeasible"


PASSING = frozenset({Outlook.BUSY, Outlook.STARTING})  # what a load waits for to change


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    index: int
    total_mb: int
    free_mb: int
    ready: bool = True
    starting: bool = False  # it becomes ready by itself, or fails
    claimed: bool = False  # by a running operation


@dataclass(frozen=True, slots=True)
class NodeFacts:
    name: str
    devices: Sequence[DeviceFacts] = ()
    residents: Sequence[Resident] = ()
    asleep: Mapping[str, frozenset[int]] = field(default_factory=dict)  # models, with the devices they had
    healthy: bool = True
    cordoned: bool = False  # nothing new is loaded here
    harnesses: frozenset[str] = frozenset({"torch"})
    labels: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Need:
    """What a model needs of a node."""

    model: str
    memory_mb: int = 0  # over all its devices; 0: not known yet
    tensor_parallel: int = 0  # devices; 0: as few as have the memory for it
    min_devices: int = 1
    min_device_mb: int = 0
    priority: int = 100
    harness: str = "torch"
    labels: frozenset[str] = frozenset()
    pinned_on: frozenset[str] = frozenset()
    base: str = ""  # the model that it is an adapter for: it goes where that is

    @property
    def degrees(self) -> Iterator[int]:
        """Over how many devices it may be split, the fewest first. Heads mostly divide by powers of two."""
        degree = self.tensor_parallel or self.min_devices
        yield degree
        while not self.tensor_parallel and (degree := 2 * degree) <= MAX_DEVICES:
            yield degree

    def per_device_mb(self, degree: int) -> int:
        return -(-self.memory_mb // degree)


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
    asleep: bool = False  # the model needs only to be woken there

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


def _rank(verdict: NodeVerdict) -> tuple[int, bool, int, bool, int, str]:
    order = list(Outlook).index(verdict.outlook)
    cost = verdict.evicted_mb, verdict.claimed, -verdict.free_mb
    return order, not verdict.asleep, *cost, verdict.node


def judge(need: Need, node: NodeFacts, strategy: Strategy) -> NodeVerdict:
    """The verdict on one node."""
    if reason := _forbidden(need, node):
        return NodeVerdict(node.name, Outlook.INFEASIBLE, reason)
    if not node.healthy:
        return NodeVerdict(node.name, Outlook.DOWN, "the node does not answer")
    if any(resident.model == need.model for resident in node.residents):
        return NodeVerdict(node.name, Outlook.BUSY, "the model is on its way in or out there")
    if need.base:
        return _judge_beside_base(need, node, strategy)
    verdicts = [_judge_split(need, node, strategy, degree) for degree in _useful(need, node)]
    return next((one for one in verdicts if one.outlook != Outlook.INFEASIBLE), verdicts[0])


def _useful(need: Need, node: NodeFacts) -> list[int]:
    """The degrees that the node has devices for; at least the first one."""
    first, *others = need.degrees
    return [first, *(degree for degree in others if degree <= len(node.devices))]


def _judge_split(need: Need, node: NodeFacts, strategy: Strategy, degree: int) -> NodeVerdict:
    """The verdict on one node, for `degree` of its devices."""
    part = need.per_device_mb(degree)
    floor = max(need.min_device_mb, part)
    large = [device for device in node.devices if device.total_mb >= floor]
    if len(large) < degree:
        reason = f"needs {degree} device(s) of {floor} MiB, has {len(large)}"
        return NodeVerdict(node.name, Outlook.INFEASIBLE, reason)
    ready = [device for device in large if device.ready]
    starting = [device for device in large if device.starting]
    if len(ready) + len(starting) < degree:
        return NodeVerdict(node.name, Outlook.DOWN, "its devices are not ready")
    home = node.asleep.get(need.model, frozenset())
    room = _Room(node.residents, part, degree, strategy, home)
    if found := room.make(ready, evictor.displaceable(node.residents, need.priority)):
        return _fitting(node, *found, home)
    later = [resident for resident in node.residents if resident.may_yield_to(need.priority)]
    if room.make(ready, later):
        reason = "waits for models that are in use or have just been loaded"
        return NodeVerdict(node.name, Outlook.BUSY, reason)
    if any(device.claimed for device in ready):
        return NodeVerdict(node.name, Outlook.BUSY, "waits for a running operation")
    if starting:
        return NodeVerdict(node.name, Outlook.STARTING, "waits for devices that are starting")
    most = max(device.free_mb for device in ready)
    reason = f"needs {part} MiB per device; {most} MiB are free, nothing else may be evicted"
    return NodeVerdict(node.name, Outlook.INFEASIBLE, reason)


def _judge_beside_base(need: Need, node: NodeFacts, strategy: Strategy) -> NodeVerdict:
    """The verdict on a node for an adapter: its model's devices may do, and that model stays."""
    base = next((resident for resident in node.residents if resident.model == need.base), None)
    if base is None:
        return NodeVerdict(node.name, Outlook.INFEASIBLE, f"{need.base}, which it is for, is not loaded")
    if base.moving:
        return NodeVerdict(node.name, Outlook.BUSY, f"{need.base} is on its way in or out there")
    devices = tuple(device for device in node.devices if device.index in base.memory_mb)
    others = tuple(resident for resident in node.residents if resident is not base)
    return judge(
        replace(need, base="", min_devices=1, tensor_parallel=len(base.memory_mb)),
        replace(node, devices=devices, residents=others),
        strategy,
    )


def _forbidden(need: Need, node: NodeFacts) -> str:
    if node.cordoned:
        return "is cordoned"
    if need.pinned_on and node.name not in need.pinned_on:
        return f"pinned on {', '.join(sorted(need.pinned_on))}"
    if missing := need.labels - node.labels:
        return f"has no label {', '.join(sorted(missing))}"
    if node.healthy and need.harness not in node.harnesses:
        return f"has no harness {need.harness!r}"
    if node.healthy and any(
        resident.model == need.model and not resident.moving for resident in node.residents
    ):
        return "has the model already"
    return ""


Victims = tuple[Resident, ...]


@dataclass(frozen=True, slots=True)
class _Room:
    """The search for `degree` devices with `part_mb` free on each of them, once some residents have left."""

    residents: Sequence[Resident]
    part_mb: int
    degree: int
    strategy: Strategy
    home: frozenset[int]  # the devices that the model had, if it is asleep

    def make(
        self, devices: Sequence[DeviceFacts], candidates: Sequence[Resident]
    ) -> tuple[Sequence[DeviceFacts], Victims] | None:
        """The devices to use and the models to evict; None if evicting all candidates frees too little."""
        alone = [([device], self._victims([device], candidates)) for device in devices]
        able = sorted((self._cost(one, found), one[0]) for one, found in alone if found is not None)
        best = [device for _, device in able[: _compared(len(able), self.degree)]]
        sets = [(chosen, self._victims(chosen, candidates)) for chosen in combinations(best, self.degree)]
        found = [(chosen, victims) for chosen, victims in sets if victims is not None]
        return min(found, key=lambda option: self._cost(*option), default=None)

    def _victims(self, devices: Sequence[DeviceFacts], candidates: Sequence[Resident]) -> Victims | None:
        """The cheapest of `candidates` to leave these devices; None if all are too few."""
        barred = [resident for resident in self.residents if _bars(resident, devices)]
        if any(resident not in candidates for resident in barred):
            return None
        gone_mb = [sum(one.memory_mb.get(device.index, 0) for one in barred) for device in devices]
        deficits = {
            device.index: max(0, self.part_mb - device.free_mb - gone)
            for device, gone in zip(devices, gone_mb, strict=True)
        }
        others = [resident for resident in candidates if resident not in barred]
        more = evictor.choose(others, deficits, self.strategy)
        return None if more is None else (*barred, *more)

    def _cost(
        self, devices: Sequence[DeviceFacts], victims: Victims
    ) -> tuple[bool, bool, int, bool, int, list[int]]:
        """What devices are compared by: whether a model has to go, whether ours is asleep elsewhere, what is
        evicted, and at last their indices."""
        indices = [device.index for device in devices]
        evicted = sum(victim.total_mb for victim in victims)
        claimed = any(device.claimed for device in devices)
        least_free = min(device.free_mb for device in devices)
        return evicted > 0, not self.home.issuperset(indices), evicted, claimed, -least_free, indices


def _compared(devices: int, degree: int) -> int:
    """How many devices' sets are compared."""
    while devices > degree and comb(devices, degree) > MAX_SETS:
        devices -= 1
    return devices


def _bars(resident: Resident, devices: Sequence[DeviceFacts]) -> bool:
    """Whether a group keeps these devices from being one: their leaders would differ."""
    mine, wanted = set(resident.memory_mb), {device.index for device in devices}
    if not resident.is_group or len(wanted) < 2 or not mine & wanted:
        return False
    return min(mine) != min(wanted)


def _fitting(
    node: NodeFacts, devices: Sequence[DeviceFacts], victims: Victims, home: frozenset[int]
) -> NodeVerdict:
    free = sum(device.free_mb for device in devices)
    indices = tuple(sorted(device.index for device in devices))
    is_asleep = bool(home) and home == set(indices)
    claimed = {device.index for device in node.devices if device.claimed}
    outlook = Outlook.FITS
    where = f" on {len(devices)} devices" if len(devices) > 1 else ""
    reason = f"{'asleep there, ' if is_asleep else ''}{free} MiB free{where}"
    if victims:
        outlook = Outlook.EVICTS
        reason += f", evicting {', '.join(victim.model for victim in victims)}"
    verdict = NodeVerdict(
        node.name,
        outlook,
        reason,
        devices=indices,
        victims=victims,
        free_mb=free,
        asleep=is_asleep,
    )
    return replace(verdict, claimed=bool(verdict.touched & claimed))
