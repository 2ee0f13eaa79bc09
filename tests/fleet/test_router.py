from __future__ import annotations

import random
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.affinity import BLOCK_BYTES, Affinity, digests, published
from fleet.router import SAMPLE_ABOVE, Facts, choose
from fleet.snapshot import Configuration, FleetSnapshot, ModelView, NodeConfig, NodeView
from neuron.wire import prefix_marks


def node(name: str, *, healthy: bool = True, state: str = "loaded", own: int = 0, **load) -> NodeView:
    models = {"m": ModelView("m", state, **load)}
    return NodeView(NodeConfig(name, f"http://{name}"), healthy, None, MappingProxyType(models), own)


def fleet(*nodes: NodeView) -> FleetSnapshot:
    configs = {item.name: item.config for item in nodes}
    return FleetSnapshot(Configuration(1, nodes=configs), {item.name: item for item in nodes})


def facts(in_flight: dict[str, int] | None = None, **known) -> Facts:
    return Facts("m", (in_flight or {}).__getitem__ if in_flight else lambda _: 0, **known)


def chosen(snapshot: FleetSnapshot, known: Facts) -> str | None:
    route = choose(snapshot, known)
    return route and route.node.name


@pytest.mark.parametrize(
    ("nodes", "known", "name"),
    [
        ([], facts(), None),
        ([node("a", healthy=False), node("b")], facts(), "b"),
        ([node("a", state="loading"), node("b")], facts(), "b"),
        ([node("a", running=3), node("b", running=2)], facts(), "b"),
        ([node("a", running=1), node("b", waiting=2)], facts(), "a"),
        ([node("a"), node("b")], facts({"a": 2, "b": 0}), "b"),
        ([node("a"), node("b", running=9)], facts(exclude={"a"}), "b"),
        ([node("a"), node("b", running=9)], facts(avoid={"a"}), "b"),
        ([node("a")], facts(avoid={"a"}), "a"),  # busy is better than none
        ([node("a")], facts(exclude={"a"}), None),
        ([node("a", running=4, max_running=4), node("b", running=5, max_running=16)], facts(), "b"),
        ([node("a", kv_free=0.01), node("b", running=2, kv_free=0.5)], facts(), "b"),
        ([node("a"), node("b")], facts(prompt_tokens=8000, saved_tokens={"b": 7000}), "b"),
        (  # a popular prefix overloads nobody
            [node("a", running=1), node("b", running=9)],
            facts(prompt_tokens=80_000, saved_tokens={"b": 80_000}),
            "a",
        ),
        (
            [node("a", tok_s_prefill=500.0), node("b", tok_s_prefill=5000.0, running=2)],
            facts(prompt_tokens=8000),
            "b",
        ),
    ],
)
def test_choice(nodes, known, name):
    assert chosen(fleet(*nodes), known) == name


loads = st.integers(0, 40)


@given(st.lists(loads, min_size=1, max_size=30), st.data())
def test_a_choice_is_a_replica_that_is_not_excluded(running, data):
    nodes = [node(f"n{index}", running=load) for index, load in enumerate(running)]
    excluded = data.draw(st.sets(st.sampled_from([item.name for item in nodes])))
    route = choose(fleet(*nodes), facts(exclude=excluded))
    assert (route is None) == (len(excluded) == len(nodes))
    assert route is None or route.node.name not in excluded


@given(st.lists(loads, min_size=2, max_size=SAMPLE_ABOVE))
def test_among_few_equals_the_least_loaded_is_chosen(running):
    nodes = [node(f"n{index}", running=load, max_running=16) for index, load in enumerate(running)]
    route = choose(fleet(*nodes), facts())
    assert route.model.running == min(running)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.sampled_from(["loaded", "loading"]), loads)))
def test_an_index_kept_step_by_step_is_the_one_built_at_once(steps):
    snapshot = fleet(*(node(f"n{index}") for index in range(6)))
    for index, healthy, state, running in steps:
        snapshot = snapshot.with_node(node(f"n{index}", healthy=healthy, state=state, running=running))
    assert snapshot.replicas("m") == FleetSnapshot(snapshot.configuration, snapshot.nodes).replicas("m")


@pytest.mark.parametrize("replicas", [4, 50])
def test_workers_with_stale_reports_do_not_herd(replicas):
    """Six workers send 40 requests a replica between two reports; each knows only its own since the last."""
    draw = random.Random(7).randrange  # noqa: S311 - a simulation
    snapshot = fleet(*(node(f"n{index}") for index in range(replicas)))
    own = [dict.fromkeys(snapshot.nodes, 0) for _ in range(6)]
    for number in range(40 * replicas):
        counts = own[number % 6]
        counts[choose(snapshot, Facts("m", counts.__getitem__, draw=draw)).node.name] += 1
    total = [sum(counts[name] for counts in own) for name in snapshot.nodes]
    assert max(total) < 1.5 * 40
    assert min(total) > 0.5 * 40


@pytest.mark.parametrize("replicas", [2, 4, 8, 16, 50])
def test_workers_do_not_herd_while_reports_change_and_come_late(replicas):
    """Every report is some requests old when it arrives; half of the answers have ended by then."""
    draw = random.Random(11).randrange  # noqa: S311 - a simulation
    snapshot = fleet(*(node(f"n{index}") for index in range(replicas)))
    seen = [snapshot] * 6  # by each worker
    real = dict.fromkeys(snapshot.nodes, 0)
    own = [dict.fromkeys(snapshot.nodes, 0) for _ in range(6)]
    worst = 0.0
    for number in range(60 * replicas):
        worker = own[number % 6]
        chosen = choose(seen[number % 6], Facts("m", worker.__getitem__, draw=draw)).node.name
        worker[chosen] += 1
        real[chosen] += 1
        if number % (5 * replicas) == 0 and number:
            worst = max(worst, max(real.values()) / (sum(real.values()) / replicas))
            late = dict(real)
            for name in real:
                real[name] -= real[name] // 2
                for counts in own:
                    counts[name] -= counts[name] // 2
            seen = [
                fleet(*(node(name, running=late[name], own=counts[name]) for name in late)) for counts in own
            ]
    assert worst < 2.5


@pytest.mark.parametrize("replicas", [2, 4, 8, 16, 32])
@pytest.mark.parametrize("prompt_tokens", [1000, 30_000])
def test_a_prefix_that_everybody_sends_overloads_no_node(replicas, prompt_tokens):
    """One node has it at first. Answers end as fast as requests come: six a replica are under way."""
    draw = random.Random(3).randrange  # noqa: S311 - a simulation
    names = [f"n{index}" for index in range(replicas)]
    own = [dict.fromkeys(names, 0) for _ in range(4)]  # by worker, each with a record of its own
    records, prefix = [Affinity() for _ in own], digests("m", body("s" * prompt_tokens * 4))
    for record in records:
        record.note(prefix, "n0")
    under_way: list[tuple[int, str]] = []
    served, worst = dict.fromkeys(names, 0), 0
    for number in range(60 * replicas):
        worker = number % len(own)
        load = {name: sum(counts[name] for counts in own) for name in names}
        if len(under_way) == 6 * replicas:
            worst = max(worst, *load.values())
            left, ended = under_way.pop(0)
            own[left][ended] -= 1
        seen = fleet(
            *(node(name, max_running=16, running=load[name], own=own[worker][name]) for name in names)
        )
        saved = records[worker].saved(prefix)
        name = chosen(seen, facts(own[worker], prompt_tokens=prompt_tokens, saved_tokens=saved, draw=draw))
        own[worker][name] += 1
        served[name] += 1
        records[worker].note(prefix, name)
        under_way.append((worker, name))
    assert worst < 2.5 * 6
    assert min(served.values()) > 0.6 * 60


def test_replicas_that_hold_a_prefix_are_among_the_candidates_of_many():
    snapshot = fleet(*(node(f"n{index:03}", running=1) for index in range(200)))
    saved = {"n150": 4000, "gone": 9000, "n007": 0}
    for seed in range(50):
        draw = random.Random(seed).randrange  # noqa: S311 - a simulation
        facts = Facts("m", lambda _: 1, prompt_tokens=4000, saved_tokens=saved, draw=draw)
        assert choose(snapshot, facts).node.name == "n150"


# --- affinity ---


def body(*turns: str) -> bytes:
    return b'{"model": "m", "messages": [' + ", ".join(turns).encode() + b"]}"


def test_a_conversation_goes_back_to_its_node():
    record, first = Affinity(), "a" * 3000
    record.note(digests("m", body(first)), "n1")
    saved = record.saved(digests("m", body(first, "b" * 3000)))
    assert saved["n1"] >= 2 * BLOCK_BYTES // 4
    assert not record.saved(digests("m", body("c" * 3000)))
    assert not record.saved(digests("other", body(first)))


@given(st.lists(st.tuples(st.binary(max_size=5000), st.sampled_from("abc"))))
def test_the_record_is_bounded_and_never_promises_more_than_the_prompt(sent):
    record = Affinity(max_entries=10)
    for text, name in sent:
        prefix = digests("m", text)
        record.note(prefix, name)
        assert len(record) <= 10
        assert all(tokens * 4 <= len(text) for tokens in record.saved(prefix).values())


def test_a_node_has_the_longest_prefix_that_it_names():
    marks = prefix_marks(body("a" * 5000))
    replicas = fleet(
        node("all", prefixes=frozenset(digest for digest, _ in marks)),
        node("first", prefixes=frozenset([marks[0][0], 1])),
        node("none", prefixes=frozenset([1])),
        node("silent"),
    ).replicas("m")
    assert published(marks, replicas) == {"all": 4096 // 4, "first": 1024 // 4, "none": 0}
