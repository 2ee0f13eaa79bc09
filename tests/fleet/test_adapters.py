from __future__ import annotations

from fleet.models import ModelProfile, Operation
from fleet.services import lifecycle
from fleet.services.operations import execution
from neuron.wire import ApiError


def ask(model):
    return lifecycle.load(model, requested_by="test").id


def test_an_adapter_is_loaded_beside_its_model_which_is_loaded_first(fleet):
    fleet.node("a")
    beside = fleet.node("b")
    fleet.model(pinned_on=["b"])
    ModelProfile.objects.create(model_id="m:tuned", base="m", source="/adapters/tuned")
    adapter = ask("m:tuned")
    execution.run_operation(adapter)
    base = Operation.objects.get(model="m")
    assert base.reason == "m:tuned is an adapter for it"
    fleet.run(base.pk)
    assert (fleet.run(adapter).node, fleet.states()) == ("b", {"m@b": "loaded", "m:tuned@b": "loaded"})
    assert beside.models["m:tuned"].source == "/adapters/tuned"


def test_an_adapter_whose_model_cannot_be_loaded_says_so(fleet):
    node = fleet.node("a")
    node.failures = {"m": ApiError(422, "model_broken", "config.json: missing")}
    fleet.model()
    ModelProfile.objects.create(model_id="m:tuned", base="m")
    adapter = ask("m:tuned")
    execution.run_operation(adapter)
    fleet.run(Operation.objects.get(model="m").pk)
    row = fleet.run(adapter)
    assert (row.state, row.error_code) == ("failed", "model_broken")
    assert "m, which it is for, could not be loaded" in row.message
