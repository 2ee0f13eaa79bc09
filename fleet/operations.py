"""The kinds of operations, and what is decided by kind: one table, without Django.

Database constraints (`fleet.models.operation`), joining one that is under way, retries
(`fleet.services.lifecycle`), execution (`fleet.services.operations`) and every view of an operation, from the
gateway to the command line, derive from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Self


class OperationKind(StrEnum):
    LOAD = "load"
    UNLOAD = "unload"
    EVICT = "evict"  # an unload on behalf of another operation, which carries it out
    DRAIN = "drain"  # of a node: it is cordoned, and all of its models are unloaded
    RESTART = "restart"  # of a device's worker; its models are loaded again
    DEFRAG = "defrag"  # the same, for memory in one piece


class OperationState(StrEnum):
    """pending → running → succeeded | failed; running → pending to wait; pending → cancelled."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ACTIVE = (OperationState.PENDING, OperationState.RUNNING)  # in any other state it is over
UNSUCCESSFUL = (OperationState.FAILED, OperationState.CANCELLED)


@dataclass(frozen=True, slots=True)
class ExclusionGroup:
    """Operations that exclude each other: of those that agree in `columns`, at most one is active."""

    constraint: str  # its name in the database
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KindRules:
    """What is decided by kind, in terms of the columns of `fleet.models.Operation`.

    An operation is the same as the active one of its group, and joins it, unless it contradicts that one.
    """

    group: ExclusionGroup
    asked: tuple[str, ...]  # what the caller decides, apart from who asks and why; a retry keeps it
    runner: str | None  # module of `fleet.services.operations` that carries it out; None: that of its parent
    conflicts_in: tuple[str, ...] = ()  # where it may contradict the active operation; empty values do not
    chooses_node: bool = False  # while it runs; the others are asked for with their node

    @property
    def is_retryable(self) -> bool:
        """Whether it can be asked for: what has no runner is part of another operation."""
        return self.runner is not None


_MODEL = ExclusionGroup("one_active_load_per_model", ("model",))
_PLACEMENT = ExclusionGroup("one_active_unload_per_placement", ("model", "wanted_node"))
_VICTIM = ExclusionGroup("one_active_eviction_per_victim", ("parent", "model", "wanted_node"))
_NODE = ExclusionGroup("one_active_drain_per_node", ("wanted_node",))
_DEVICE = ExclusionGroup("one_active_restart_per_device", ("wanted_node", "device"))

RULES: Mapping[OperationKind, KindRules] = {
    OperationKind.LOAD: KindRules(
        group=_MODEL,
        asked=("model", "wanted_node", "replica"),
        runner="loading",
        conflicts_in=("place",),
        chooses_node=True,
    ),
    OperationKind.UNLOAD: KindRules(
        group=_PLACEMENT, asked=("model", "wanted_node", "unless_busy", "force"), runner="unloading"
    ),
    OperationKind.EVICT: KindRules(group=_VICTIM, asked=("parent", "model", "wanted_node"), runner=None),
    OperationKind.DRAIN: KindRules(group=_NODE, asked=("wanted_node", "force"), runner="draining"),
    OperationKind.RESTART: KindRules(
        group=_DEVICE, asked=("wanted_node", "device", "force"), runner="restarting"
    ),
    OperationKind.DEFRAG: KindRules(
        group=_DEVICE, asked=("wanted_node", "device", "force"), runner="restarting"
    ),
}

GROUPS: Mapping[ExclusionGroup, tuple[OperationKind, ...]] = {
    group: tuple(kind for kind, rules in RULES.items() if rules.group == group)
    for group in dict.fromkeys(rules.group for rules in RULES.values())
}


def rules_of(kind: str) -> KindRules:
    return RULES[OperationKind(kind)]


def is_same(wish: Any, active: Any) -> bool:
    """Whether the active operation of its group does what `wish` asks for; what is empty in it may be any."""
    return all(
        getattr(wish, column) in {None, "", getattr(active, column)}
        for column in rules_of(wish.kind).conflicts_in
    )


def target(model: str, place: str, device: int | None) -> str:
    """`m on beast`, `m` while no node is chosen, `beast`, `beast:0`."""
    if model:
        return f"{model} on {place}" if place else model
    return place if device is None else f"{place}:{device}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationView:
    """An operation as the gateway, the operator API and the command line show it."""

    id: int
    kind: str
    state: str
    model: str = ""  # empty where it is about a node or a device
    node: str = ""  # empty until a node is chosen
    device: int | None = None
    progress: float | None = None  # 0 to 1 while a node loads
    message: str = ""
    error_code: str = ""
    eta_s: float | None = None  # of a running load, where the model was loaded before

    @classmethod
    def parse(cls, answer: Mapping[str, Any]) -> Self:
        """From what the operator API answers; fields of another version are left out."""
        return cls(**{field.name: answer[field.name] for field in fields(cls) if field.name in answer})

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE

    @property
    def is_unsuccessful(self) -> bool:
        return self.state in UNSUCCESSFUL

    @property
    def subject(self) -> str:
        """`load of m on beast`, `defrag of beast:0`."""
        return f"{self.kind} of {target(self.model, self.node, self.device)}"
