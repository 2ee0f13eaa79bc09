"""Placement and eviction over time, on random fleets: a simulation of what operations do with the verdicts.

Time passes, models come into use and out of it, loads are asked for and tried again, the oldest first. What a
decision says is done at once; whoever waited `SWAP_WAIT_S` may displace models in use, which in the real
fleet leave after their requests.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fleet.evictor import Resident
from fleet.placement import DeviceFacts, Need, NodeFacts, Outlook, place

SWAP_WAIT_S, MIN_RESIDENCY_S = 60.0, 5.0
MODELS = {
    f"m{number}": Need(f"m{number}", memory_mb=size, min_devices=devices, priority=priority, pinned_on=pins)
    for number, (size, devices, priority, pins) in enumerate(
        [
            (1000, 1, 100, frozenset()),
            (3000, 1, 100, frozenset()),
            (4000, 1, 50, frozenset()),
            (6000, 2, 100, frozenset()),
            (2000, 1, 1000, frozenset({"a"})),
            (8000, 1, 1000, frozenset()),
            (0, 1, 100, frozenset()),
            (10_000, 1, 100, frozenset()),  # fits no device
        ]
    )
}
MODELS["pair"] = Need("pair", memory_mb=2000, tensor_parallel=2)
MODELS["trio"] = Need("trio", memory_mb=3000, tensor_parallel=3, priority=1000)


@dataclass
class Loaded:
    memory_mb: dict[int, int]
    since: float
    used_at: float
    busy: bool = False


@dataclass
class Host:
    devices_mb: list[int]
    loaded: dict[str, Loaded] = field(default_factory=dict)

    def used_mb(self, index: int) -> int:
        return sum(one.memory_mb.get(index, 0) for one in self.loaded.values())


class Fleet(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.hosts: dict[str, Host] = {}
        self.waiting: dict[str, float] = {}  # model → asked at
        self.cordoned: set[str] = set()

    @initialize(
        devices=st.lists(
            st.lists(st.sampled_from([2000, 4000, 8000]), min_size=1, max_size=3), min_size=1, max_size=3
        ),
        strategy=st.sampled_from(["lru", "priority"]),
    )
    def begin(self, devices, strategy):
        self.strategy = strategy
        self.hosts = {name: Host(sizes) for name, sizes in zip("abc", devices, strict=False)}

    @rule(model=st.sampled_from(sorted(MODELS)))
    def ask(self, model):
        found = [host.loaded[model] for host in self.hosts.values() if model in host.loaded]
        if not found:
            self.waiting.setdefault(model, self.now)
        for one in found:
            one.busy, one.used_at = True, self.now

    @rule(model=st.sampled_from(sorted(MODELS)))
    def requests_end(self, model):
        for host in self.hosts.values():
            if model in host.loaded:
                host.loaded[model].busy = False

    @rule(seconds=st.sampled_from([0.5, 4.0, 30.0, 100.0]))
    def time_passes(self, seconds):
        self.now += seconds
        self.loads_are_tried()

    @rule(name=st.sampled_from("abc"))
    def cordon_or_not(self, name):
        self.cordoned ^= {name}

    @rule()
    def loads_are_tried(self):
        for model, asked_at in sorted(self.waiting.items(), key=lambda item: item[1]):
            self.try_load(MODELS[model], patient=self.now - asked_at < SWAP_WAIT_S)

    def try_load(self, need, *, patient):
        decision = place(need, self.facts(patient=patient), self.strategy)
        if decision.chosen is None:
            if decision.outlook is not Outlook.BUSY:
                del self.waiting[need.model]  # refused, with the reasons
            elif not patient:  # past its bound only models that have just come are waited for
                assert any(
                    self.now - one.since < MIN_RESIDENCY_S
                    for host in self.hosts.values()
                    for one in host.loaded.values()
                )
            return
        host = self.hosts[decision.chosen.node]
        assert decision.chosen.node not in self.cordoned
        for victim in decision.chosen.victims:
            gone = host.loaded.pop(victim.model)
            assert not victim.pinned
            assert not (gone.busy and patient)
            assert MODELS[victim.model].priority <= need.priority
            assert self.now - gone.since >= MIN_RESIDENCY_S
        devices = decision.chosen.devices
        share = dict.fromkeys(devices, need.per_device_mb(len(devices)))
        host.loaded[need.model] = Loaded(share, self.now, self.now)
        del self.waiting[need.model]

    def facts(self, *, patient):
        return [self.node(name, host, patient=patient) for name, host in self.hosts.items()]

    def node(self, name, host, *, patient):
        return NodeFacts(
            name,
            [
                DeviceFacts(index, total, total - host.used_mb(index))
                for index, total in enumerate(host.devices_mb)
            ],
            [self.resident(name, model, one, patient=patient) for model, one in host.loaded.items()],
            cordoned=name in self.cordoned,
        )

    def resident(self, name, model, one, *, patient):
        return Resident(
            model,
            one.memory_mb,
            priority=MODELS[model].priority,
            pinned=name in MODELS[model].pinned_on,
            busy=one.busy and patient,
            idle_s=self.now - one.used_at,
            resident_s=self.now - one.since,
            min_residency_s=MIN_RESIDENCY_S,
            is_group=len(one.memory_mb) > 1,
        )

    @invariant()
    def no_device_holds_more_than_it_has(self):
        for host in self.hosts.values():
            assert all(host.used_mb(index) <= total for index, total in enumerate(host.devices_mb))

    @invariant()
    def groups_that_overlap_have_one_leader(self):
        for host in self.hosts.values():
            groups = [set(one.memory_mb) for one in host.loaded.values() if len(one.memory_mb) > 1]
            assert all(min(a) == min(b) for a in groups for b in groups if a & b)

    @invariant()
    def nobody_waits_beyond_the_bound_without_a_reason(self):
        """Let all time pass: whoever can be served at all is served, or told why not."""
        for model, asked_at in self.waiting.items():
            if self.now - asked_at >= SWAP_WAIT_S:
                nodes = [self.aged(node) for node in self.facts(patient=False)]
                assert place(MODELS[model], nodes, self.strategy).outlook is not Outlook.BUSY

    def aged(self, node):
        return replace(node, residents=[replace(one, resident_s=MIN_RESIDENCY_S) for one in node.residents])


Fleet.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestFleet = pytest.mark.filterwarnings("error")(Fleet.TestCase)
