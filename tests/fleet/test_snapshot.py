"""What the fleet offers, after a node has reported."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fleet.snapshot import Configuration, FleetSnapshot, ModelView, NodeConfig, NodeView, ProfileView

CONFIGURATION = Configuration(1, profiles={"m": ProfileView("m", capabilities=("chat",), context=4096)})
VIEW = ModelView("m", "loaded", context=8192, capabilities=("chat",))


def node(name: str, *views: ModelView, healthy: bool = True) -> NodeView:
    config = NodeConfig(name, f"http://{name}")
    return NodeView(config, healthy=healthy, reason=None, models={view.id: view for view in views})


@pytest.mark.parametrize(
    "reported",
    [
        node("a", replace(VIEW, running=3, waiting=2)),
        node("a", replace(VIEW, context=16_384)),
        node("a", replace(VIEW, capabilities=("chat", "vision"))),
        node("a", replace(VIEW, state="loading")),
        node("a", VIEW, ModelView("other", "loaded")),
        node("a", VIEW, healthy=False),
        node("a"),
        node("b", replace(VIEW, context=2048)),
    ],
    ids=["load", "context", "capabilities", "state", "another", "silent", "none", "a new node"],
)
def test_offers_are_those_of_a_snapshot_made_anew(reported):
    before = FleetSnapshot(CONFIGURATION, {"a": node("a", VIEW)})
    names = ["m", "other", "unknown"]
    assert [before.offer(name) for name in names][1:] == [None, None]
    after = before.with_node(reported)
    anew = FleetSnapshot(CONFIGURATION, {**before.nodes, reported.name: reported})
    assert [after.offer(name) for name in names] == [anew.offer(name) for name in names]
