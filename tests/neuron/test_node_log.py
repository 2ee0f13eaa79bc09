"""The last lines of a node, as its API tells them."""

from __future__ import annotations

from tests.neuron.conftest import config, neuron_with


async def test_the_last_lines_are_told_and_followed():
    async with neuron_with(config()) as neuron:
        neuron.daemon.last_lines.feed("one r1\ntwo r2\n")
        told = (await neuron.http.get("/logs")).json()
        assert told["lines"] == ["one r1", "two r2"]
        assert (await neuron.http.get("/logs", params={"match": "r2"})).json()["lines"] == ["two r2"]
        neuron.daemon.last_lines.feed("three\n")
        assert (await neuron.http.get("/logs", params={"after": told["end"]})).json()["lines"] == ["three"]
        assert (await neuron.http.get("/logs", params={"after": "x"})).status_code == 400


async def test_logs_are_behind_the_nodes_token():
    async with neuron_with(config(token="secret")) as neuron:
        assert (await neuron.http.get("/logs")).status_code == 401
