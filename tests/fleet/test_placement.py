from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.evictor import Resident, choose, displaceable
from fleet.placement import DeviceFacts, Need, NodeFacts, Outlook, judge, place


def node(name="a", free=(8000,), total=8000, residents=(), **rest):
    devices = tuple(
        gpu if isinstance(gpu, DeviceFacts) else DeviceFacts(index, total, gpu)
        for index, gpu in enumerate(free)
    )
    return NodeFacts(name, devices, tuple(residents), **rest)


def resident(model="r", mb=4000, device=0, **rest):
    return Resident(model, {device: mb}, **rest)


NEED = Need("m", memory_mb=6000)
A100 = frozenset({"a100"})
STARTING = DeviceFacts(0, 8000, 0, ready=False, starting=True)


@pytest.mark.parametrize(
    ("nodes", "chosen"),
    [
        ([node("a"), node("b")], "a"),
        ([node("a", free=[6000]), node("b", free=[7000])], "b"),
        ([node("a", free=[3000], residents=[resident()]), node("b", free=[6000])], "b"),
        (
            [
                node("a", free=[3000], residents=[resident(mb=5000)]),
                node("b", [2500], residents=[resident()]),
            ],
            "b",
        ),
        ([node("a"), node("b", asleep={"m": frozenset({0})})], "b"),
        ([node("a", healthy=False), node("b", free=[6000])], "b"),
        ([node("a", harnesses=frozenset({"other"})), node("b")], "b"),
        ([node("a", residents=[resident("m", 100)]), node("b")], "b"),
        ([node("a", free=[DeviceFacts(0, 9000, 9000, claimed=True)]), node("b", free=[6000])], "b"),
        ([node("a", free=[DeviceFacts(0, 9000, 9000, ready=False)]), node("b", free=[6000])], "b"),
        ([node("a", free=[STARTING]), node("b", free=[3000], residents=[resident()])], "b"),
        ([node("a", free=[5999], total=5999), node("b", free=[6000], total=6000)], "b"),
    ],
    ids=[
        "by name",
        "most free",
        "free before evicting",
        "least evicted",
        "asleep there",
        "down",
        "harness",
        "has it already",
        "unclaimed first",
        "device not ready",
        "device starting",
        "large enough",
    ],
)
def test_nodes_are_ranked(nodes, chosen):
    for order in (nodes, nodes[::-1]):
        decision = place(NEED, order, "lru")
        assert decision.chosen is not None
        assert decision.chosen.node == chosen
        assert decision.verdicts[0] == decision.chosen
        assert {verdict.node for verdict in decision.verdicts} == {fact.name for fact in nodes}


@pytest.mark.parametrize(
    ("need", "fact", "outlook", "reason"),
    [
        (NEED, node(), Outlook.FITS, "8000 MiB free"),
        (NEED, node(free=[3000], residents=[resident()]), Outlook.EVICTS, "3000 MiB free, evicting r"),
        (
            NEED,
            node(residents=[resident("m", busy=True, moving=True)]),
            Outlook.BUSY,
            "the model is on its way in or out there",
        ),
        (
            NEED,
            node(free=[3000], residents=[resident(busy=True)]),
            Outlook.BUSY,
            "waits for models that are in use or have just been loaded",
        ),
        (
            NEED,
            node(free=[3000], residents=[resident(resident_s=5, min_residency_s=60)]),
            Outlook.BUSY,
            "waits for models that are in use or have just been loaded",
        ),
        (
            NEED,
            node(free=[3000], residents=[resident(pinned=True)]),
            Outlook.INFEASIBLE,
            "needs 6000 MiB per device; 3000 MiB are free, nothing else may be evicted",
        ),
        (
            NEED,
            node(free=[3000], residents=[resident(priority=101)]),
            Outlook.INFEASIBLE,
            "needs 6000 MiB per device; 3000 MiB are free, nothing else may be evicted",
        ),
        (
            NEED,
            node(free=[DeviceFacts(0, 8000, 3000, claimed=True)]),
            Outlook.BUSY,
            "waits for a running operation",
        ),
        (NEED, node(free=[4000], total=4000), Outlook.INFEASIBLE, "needs 1 device(s) of 6000 MiB, has 0"),
        (
            Need("m", memory_mb=6000, min_devices=2),
            node(free=[3000, 2999]),
            Outlook.INFEASIBLE,
            "needs 3000 MiB per device; 3000 MiB are free, nothing else may be evicted",
        ),
        (
            Need("m", memory_mb=6000, min_devices=2),
            node(free=[3000, 3000]),
            Outlook.FITS,
            "6000 MiB free on 2 devices",
        ),
        (Need("m", min_device_mb=9000), node(), Outlook.INFEASIBLE, "needs 1 device(s) of 9000 MiB, has 0"),
        (Need("m", pinned_on=frozenset({"b", "c"})), node(), Outlook.INFEASIBLE, "pinned on b, c"),
        (NEED, node(healthy=False), Outlook.DOWN, "the node does not answer"),
        (
            NEED,
            node(free=[DeviceFacts(0, 8000, 8000, ready=False)]),
            Outlook.DOWN,
            "its devices are not ready",
        ),
        (NEED, node(free=[STARTING]), Outlook.STARTING, "waits for devices that are starting"),
        (
            NEED,
            node(free=[STARTING, 3000], residents=[resident(device=1, pinned=True)]),
            Outlook.STARTING,
            "waits for devices that are starting",
        ),
        (NEED, node(free=[STARTING, 8000]), Outlook.FITS, "8000 MiB free"),
        (
            Need("m", memory_mb=6000, tensor_parallel=2),
            node(free=[STARTING, 8000]),
            Outlook.STARTING,
            "waits for devices that are starting",
        ),
        (
            Need("m", memory_mb=6000, tensor_parallel=2),
            node(free=[STARTING, DeviceFacts(1, 8000, 0, ready=False)]),
            Outlook.DOWN,
            "its devices are not ready",
        ),
        (Need("m", harness="vllm"), node(), Outlook.INFEASIBLE, "has no harness 'vllm'"),
        (Need("m", labels=A100), node(labels=A100 | {"nvlink"}), Outlook.FITS, "8000 MiB free"),
        (Need("m", labels=A100 | {"x", "y"}), node(labels=A100), Outlook.INFEASIBLE, "has no label x, y"),
        (Need("m"), node(free=[0]), Outlook.FITS, "0 MiB free"),
    ],
)
def test_each_node_gets_a_verdict_with_its_reason(need, fact, outlook, reason):
    verdict = judge(need, fact, "lru")
    assert (verdict.outlook, verdict.reason) == (outlook, reason)


def test_a_model_goes_to_the_devices_with_the_most_room():
    fact = node(free=[1000, 7000, 2000, 6500])
    assert judge(Need("m", memory_mb=6000), fact, "lru").devices == (1,)
    assert judge(Need("m", memory_mb=6000, min_devices=2), fact, "lru").devices == (1, 3)


def test_a_load_waits_for_the_best_node_while_it_is_claimed():
    decision = place(NEED, [node(free=[DeviceFacts(0, 8000, 8000, claimed=True)])], "lru")
    assert decision.chosen is None
    assert decision.outlook == Outlook.BUSY


def test_a_model_without_nodes_is_infeasible():
    assert place(NEED, [], "lru").verdicts == ()


memory = st.integers(0, 24_000)
residents = st.builds(
    Resident,
    model=st.sampled_from("abcdefgh"),
    memory_mb=st.dictionaries(st.integers(0, 3), memory, min_size=1, max_size=2),
    priority=st.sampled_from([50, 100, 1000]),
    pinned=st.booleans(),
    busy=st.booleans(),
    idle_s=st.floats(0, 1000),
    resident_s=st.floats(0, 100),
    min_residency_s=st.sampled_from([0.0, 50.0]),
    is_group=st.booleans(),
)


@st.composite
def nodes(draw):
    here = draw(st.lists(residents, max_size=5, unique_by=lambda one: one.model))
    devices = []
    for index in range(draw(st.integers(0, 4))):
        used = sum(one.memory_mb.get(index, 0) for one in here)
        free = draw(memory)
        ready, claimed = draw(st.booleans()), draw(st.booleans())
        devices.append(DeviceFacts(index, used + free, free, ready=ready, claimed=claimed))
    name = draw(st.sampled_from(["n1", "n2", "n3", "n4"]))
    return NodeFacts(name, devices, here, healthy=draw(st.booleans()))


needs = st.builds(
    Need,
    model=st.sampled_from("abcdefgh"),
    memory_mb=memory,
    tensor_parallel=st.sampled_from([0, 0, 1, 2, 4]),
    min_devices=st.integers(1, 3),
    min_device_mb=st.sampled_from([0, 8000]),
    priority=st.sampled_from([50, 100, 1000]),
    pinned_on=st.sampled_from([frozenset(), frozenset({"n1"}), frozenset({"n1", "n2"})]),
)


@given(
    needs, st.lists(nodes(), max_size=4, unique_by=lambda one: one.name), st.sampled_from(["lru", "priority"])
)
def test_a_chosen_verdict_always_fits(need, fleet, strategy):
    decision = place(need, fleet, strategy)
    assert len(decision.verdicts) == len(fleet)
    if decision.chosen is None:
        return
    chosen = decision.chosen
    fact = next(one for one in fleet if one.name == chosen.node)
    devices = {device.index: device for device in fact.devices}
    assert fact.healthy
    assert not need.pinned_on or fact.name in need.pinned_on
    assert len(set(chosen.devices)) == len(chosen.devices)
    assert len(chosen.devices) in need.degrees
    assert all(devices[index].ready and not devices[index].claimed for index in chosen.devices)
    for victim in chosen.victims:
        assert not victim.pinned
        assert not victim.busy
        assert victim.priority <= need.priority
        assert victim.resident_s >= victim.min_residency_s
    for index in chosen.devices:
        freed = sum(victim.memory_mb.get(index, 0) for victim in chosen.victims)
        assert devices[index].free_mb + freed >= need.per_device_mb(len(chosen.devices))
        assert devices[index].total_mb >= need.min_device_mb


@given(needs, nodes(), st.sampled_from(["lru", "priority"]))
def test_nothing_is_evicted_where_there_is_room(need, fact, strategy):
    verdict = judge(need, fact, strategy)
    degree = next(need.degrees)
    ready = [one for one in fact.devices if one.ready and one.total_mb >= need.min_device_mb]
    roomy = [one for one in ready if one.free_mb >= need.per_device_mb(degree)]
    groups = any(one.is_group for one in fact.residents)
    if len(roomy) >= degree and (degree == 1 or not groups):
        assert verdict.victims == ()


@given(needs, nodes(), st.sampled_from(["lru", "priority"]))
def test_a_model_takes_no_more_devices_than_it_must(need, fact, strategy):
    verdict = judge(need, fact, strategy)
    for degree in need.degrees:
        if verdict.outlook == Outlook.INFEASIBLE or degree >= len(verdict.devices or fact.devices):
            break
        fewer = judge(replace(need, tensor_parallel=degree), fact, strategy)
        assert not verdict.devices or fewer.outlook == Outlook.INFEASIBLE


@given(needs, nodes(), st.sampled_from(["lru", "priority"]))
def test_what_has_to_leave_leaves_whole_and_what_stays_shares_its_first_device(need, fact, strategy):
    verdict = judge(need, fact, strategy)
    for victim in verdict.victims:
        assert set(victim.memory_mb) <= verdict.touched
    for one in fact.residents:
        if one.is_group and one not in verdict.victims and len(verdict.devices) > 1:
            shared = set(one.memory_mb) & set(verdict.devices)
            assert not shared or min(one.memory_mb) == min(verdict.devices)


@given(needs, nodes(), st.sampled_from(["lru", "priority"]))
def test_no_other_devices_would_cost_less(need, fact, strategy):
    ungrouped = [replace(one, is_group=False) for one in fact.residents]
    verdict = judge(need, replace(fact, residents=ungrouped), strategy)
    if not verdict.devices:
        return
    degree = len(verdict.devices)
    part = need.per_device_mb(degree)
    large = [one for one in fact.devices if one.ready and one.total_mb >= max(need.min_device_mb, part)]
    candidates = displaceable(ungrouped, need.priority)
    for others in combinations(large, degree):
        deficits = {one.index: max(0, part - one.free_mb) for one in others}
        victims = choose(candidates, deficits, strategy)
        assert victims is None or sum(one.total_mb for one in victims) >= verdict.evicted_mb


@pytest.mark.parametrize(
    ("need", "free", "devices"),
    [
        (Need("m", memory_mb=6000, tensor_parallel=2), [8000, 8000], (0, 1)),
        (Need("m", memory_mb=6000, tensor_parallel=1, min_devices=2), [8000, 8000], (0,)),
        (Need("m", memory_mb=12_000), [8000, 8000], (0, 1)),
        (Need("m", memory_mb=12_000), [5000, 8000, 4000, 7000], (1, 3)),
        (Need("m", memory_mb=30_000), [8000] * 5, (0, 1, 2, 3)),
        (Need("m", memory_mb=60_000), [8000] * 9, (0, 1, 2, 3, 4, 5, 6, 7)),
        (Need("m", memory_mb=12_000, tensor_parallel=1), [8000, 8000], ()),
        (Need("m", memory_mb=60_000), [8000] * 7, ()),
    ],
)
def test_a_model_is_split_as_told_or_as_far_as_it_must(need, free, devices):
    assert judge(need, node(free=free), "lru").devices == devices


def test_a_model_that_would_fit_one_device_waits_for_it_rather_than_being_split():
    busy = resident("r", 6000, busy=True)
    assert judge(NEED, node(free=[2000, 3000], residents=[busy]), "lru").outlook == Outlook.BUSY


def test_a_model_on_two_devices_is_evicted_once_rather_than_two_others():
    pair = Resident("pair", {0: 4000, 1: 4000})
    one, two = resident("one", 5000, 2), resident("two", 5000, 3)
    fact = node(free=[1000, 1000, 1000, 1000], residents=[pair, one, two])
    verdict = judge(Need("m", memory_mb=8000, tensor_parallel=2), fact, "lru")
    assert (verdict.devices, [victim.model for victim in verdict.victims]) == ((0, 1), ["pair"])
    assert verdict.reason == "2000 MiB free on 2 devices, evicting pair"


def test_a_group_that_overlaps_without_its_leader_has_to_leave_or_is_spared():
    group = Resident("group", {1: 100, 2: 100}, is_group=True)
    need = Need("m", memory_mb=2000, tensor_parallel=2)
    verdict = judge(need, node(free=[5000, 5000, 5000, 5000], residents=[group]), "lru")
    assert (verdict.devices, verdict.victims) == ((0, 3), ())
    verdict = judge(need, node(free=[5000, 5000, 5000], residents=[group]), "lru")
    assert (verdict.devices, verdict.victims) == ((1, 2), ())
    pinned = replace(group, pinned=True)
    fact = node(free=[5000, 5000], residents=[replace(pinned, memory_mb={1: 100, 2: 100})])
    assert judge(need, fact, "lru").outlook == Outlook.INFEASIBLE


def test_sets_of_many_devices_are_compared_within_bounds():
    free = [4000 + index for index in range(24)]
    assert judge(Need("m", memory_mb=8000, tensor_parallel=8), node(free=free), "lru").devices == tuple(
        range(16, 24)
    )


ADAPTER = Need("m:a", memory_mb=100, base="m")


def test_an_adapter_goes_where_its_model_is():
    nodes = [node("a"), node("b", free=[8000, 500], residents=[resident("m", mb=7000, device=1)])]
    decision = place(ADAPTER, nodes, "lru")
    assert decision.chosen is not None
    assert (decision.chosen.node, decision.chosen.devices) == ("b", (1,))
    assert {v.reason for v in decision.verdicts} >= {"m, which it is for, is not loaded"}


def test_an_adapter_waits_for_its_model_and_never_evicts_it():
    moving = judge(ADAPTER, node(residents=[resident("m", busy=True, moving=True)]), "lru")
    assert (moving.outlook, moving.reason) == (Outlook.BUSY, "m is on its way in or out there")
    full = [resident("m", mb=7950), resident("other", mb=40, priority=1)]
    assert judge(ADAPTER, node(free=[10], residents=full), "lru").outlook == Outlook.INFEASIBLE
    roomy = [resident("m", mb=7000), resident("other", mb=950, priority=1)]
    verdict = judge(ADAPTER, node(free=[10], residents=roomy), "lru")
    assert [victim.model for victim in verdict.victims] == ["other"]
