"""`GET /v1/models`: the catalogue, the nodes and the aliases in one list."""

from __future__ import annotations

from fleet.snapshot import NodeConfig, ProfileView
from tests.gateway.conftest import make_house

COST = {"input": 0.05, "output": 0.15, "cache_read": 0.01}
BIG = ProfileView("big", context=2048, output=512, capabilities=("chat", "tools"), cost=COST)


async def the_list(house) -> list[dict]:
    return (await house.client.get("/v1/models")).json()["data"]


async def test_every_field_of_a_model_that_nodes_and_catalogue_know():
    async with make_house(nodes=2) as house:
        first, second = house.nodes
        await first.set_model("big")
        await second.set_model("big", "loading", progress=0.25)
        house.control.change(profiles={"big": BIG}, aliases={"zeta": "big", "alpha": "big"})
        await house.until(
            lambda snapshot: snapshot.configuration.aliases and len(snapshot.placements("big")) == 2
        )
        stored = {"memory_mb": 100, "format": "q4_k", "bits_per_weight": 4.5, "error": None}
        shared = {
            "object": "model",
            "created": 1_767_225_600,
            "owned_by": "cortex",
            "aliases": ["alpha", "zeta"],
            "state": "loaded",
            "loaded": True,
            "context_length": 2048,  # what the operator allows; the nodes would take 4096
            "max_model_len": 2048,
            "max_output_tokens": 512,
            "limit": {"context": 2048, "output": 512},
            "capabilities": ["chat"],  # the nodes' word is over the catalogue's
            "cost": COST,
            "pricing": COST,
            "nodes": [
                stored | {"name": "n0", "state": "loaded", "progress": None},
                stored | {"name": "n1", "state": "loading", "progress": 0.25},
            ],
        }
        listed = {model["id"]: model for model in await the_list(house)}
        assert listed["big"] == shared | {"id": "big", "alias_of": None}
        assert listed["alpha"] == shared | {"id": "alpha", "alias_of": "big"}
        for name in ("big", "zeta"):
            assert (await house.client.get(f"/v1/models/{name}")).json() == listed[name]


async def test_a_model_that_only_the_catalogue_knows(house):
    house.control.change(profiles={"vendor/new": ProfileView("vendor/new", capabilities=("embeddings",))})
    await house.until(lambda snapshot: "vendor/new" in snapshot.configuration.profiles)
    found = (await house.client.get("/v1/models/vendor/new")).json()
    assert (found["state"], found["loaded"], found["nodes"]) == ("available", False, [])
    assert (found["context_length"], found["cost"], found["limit"]["output"]) == (None, None, None)
    assert found["capabilities"] == ["embeddings"]


async def test_the_order_is_that_of_names_models_first(house):
    names = ["b", "a", "c"]
    house.control.change(
        profiles={name: ProfileView(name) for name in names},
        aliases={"z": "a", "k": "b", "dead": "nobody", "c": "a"},
    )
    await house.until(lambda snapshot: snapshot.configuration.aliases)
    expected = ["a", "b", "c", "m", "k", "z"]  # an alias to nobody, or under a model's name, is left out
    assert [[model["id"] for model in await the_list(house)] for _ in range(3)] == [expected] * 3
    assert {model["id"]: model["alias_of"] for model in await the_list(house)}["c"] is None


async def test_an_unknown_model_is_a_404(house):
    answer = await house.client.get("/v1/models/nope")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_node_that_is_away_is_not_in_it():
    async with make_house(nodes=2) as house:
        house.control.change(nodes={"n0": NodeConfig("n0", house.nodes[0].url)})
        await house.until(lambda snapshot: len(snapshot.nodes) == 1)
        (model,) = await the_list(house)
        assert [node["name"] for node in model["nodes"]] == ["n0"]
