"""A neuron that says what cannot be draws no requests by it."""

from __future__ import annotations

import pytest

from tests.gateway.conftest import MODEL, make_house


@pytest.mark.parametrize(
    "lie",
    [{"running": -1000}, {"waiting": -1000}, {"tok_s_prefill": -1.0}, {"max_running": -4, "running": 3}],
)
async def test_counts_below_none_draw_no_requests(lie):
    async with make_house(nodes=2) as house:
        liar, honest = house.nodes
        await liar.set_model(MODEL, **({"running": 5} | lie))
        await honest.set_model(MODEL, running=0, waiting=0)
        await house.until(
            lambda snapshot: all(
                view.running >= 0 and view.waiting >= 0 and view.max_running >= 0 and view.tok_s_prefill >= 0
                for _, view in snapshot.replicas(MODEL)
            )
        )
        nodes = {(await house.chat()).headers["x-cortex-node"] for _ in range(6)}
        assert "n1" in nodes


async def test_a_state_nobody_knows_is_not_routed_to(house):
    await house.node.set_model(MODEL, "dreaming")
    await house.until(lambda snapshot: not snapshot.replicas(MODEL))
    assert house.gateway.view.snapshot.nodes["n0"].healthy
    listed = (await house.client.get("/v1/models")).json()["data"]
    assert [node["state"] for node in listed[0]["nodes"]] == ["dreaming"]


async def test_another_protocol_is_not_trusted(house):
    house.node.protocol = 2
    await house.node.set_model(MODEL)
    await house.until(lambda snapshot: not snapshot.nodes["n0"].healthy)
    reason = (await house.client.get("/health")).json()["away"][0]["reason"]
    assert reason == "it speaks protocol 2, this cortex speaks 1"
