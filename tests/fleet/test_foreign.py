"""Whatever servers and neurons say: understood, refused in words of ours, or corrected; never a crash."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from fleet.foreign.errors import MAX_MESSAGE_CHARS, read_error
from fleet.foreign.models import MAX_ID_CHARS, read_models
from fleet.gateway.nodes.adapter import RequestAdapter
from fleet.plausibility import MAX_WARNINGS, examine
from fleet.snapshot import NodeConfig
from neuron.wire import ApiError, DeviceHealth, Health, ModelInfo, ModelLoad

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
WORDS = st.sampled_from(
    ["error", "message", "code", "param", "type", "detail", "data", "id", "meta", "n_ctx"]
)
BODIES = (
    st.binary(max_size=200)
    | VALUES.map(lambda value: json.dumps(value).encode())
    | st.recursive(
        st.dictionaries(WORDS, VALUES, max_size=4),
        lambda inner: st.dictionaries(WORDS, inner | st.lists(inner, max_size=3), max_size=4),
        max_leaves=6,
    ).map(lambda value: json.dumps(value).encode())
)


@given(st.integers(300, 599), BODIES, st.text(max_size=20))
def test_every_refusal_becomes_an_error_of_ours(status, body, retry_after):
    error = read_error(status, body, retry_after)
    assert error.status in {status, 502}
    assert error.status >= 400
    assert error.code
    assert 0 < len(error.message) <= MAX_MESSAGE_CHARS
    assert error.retry_after_s is None or error.retry_after_s >= 0
    json.dumps(error.envelope())


@given(BODIES, st.dictionaries(st.text(min_size=1, max_size=5), st.text(min_size=1, max_size=5), max_size=3))
def test_every_list_of_models_is_read_or_refused(body, names):
    try:
        served = read_models(body, names)
    except ValueError:
        return
    assert [model.id for model in served] == sorted({model.id for model in served})
    assert all(0 < len(model.id) <= MAX_ID_CHARS for model in served)
    assert all(model.context is None or model.context > 0 for model in served)
    assert not names or {model.id for model in served} <= set(names)


NUMBERS = st.integers(-(2**70), 2**70)
DEVICES = st.lists(
    st.builds(
        DeviceHealth,
        index=st.integers(-1, 3),
        state=st.text(max_size=8) | st.just("ready"),
        worker=st.just("w"),
        memory_used_mb=NUMBERS,
        memory_free_mb=NUMBERS,
    ),
    max_size=4,
)
MODELS = st.lists(
    st.builds(
        ModelInfo,
        id=st.text(max_size=8),
        source=st.just("s"),
        state=st.text(max_size=8) | st.just("loaded"),
        devices=st.lists(st.integers(-1, 4), max_size=3),
        memory_mb=st.none() | NUMBERS,
    ),
    max_size=30,
)
LOADS = st.lists(st.builds(ModelLoad, id=st.just("m"), running=NUMBERS, waiting=NUMBERS), max_size=3)


@given(DEVICES, MODELS, LOADS, st.dictionaries(st.integers(0, 3), NUMBERS, max_size=4))
def test_what_is_believed_can_be(devices, models, loads, totals):
    health = Health(status="ok", uptime_s=1, pid=1, rss_mb=1, devices=devices, models=loads)
    said = examine(health, models, totals)
    for device in said.health.devices:
        total = max(0, totals.get(device.index, 0))
        assert device.memory_used_mb >= 0
        assert device.memory_free_mb >= 0
        assert device.memory_used_mb + device.memory_free_mb <= total
    for model in said.models:
        assert model.state in {"loading", "loaded", "unloading", "failed"}
        assert set(model.devices) <= set(totals)
    assert all(load.running >= 0 and load.waiting >= 0 for load in said.health.models)
    assert len(said.warnings) <= MAX_WARNINGS
    again = examine(said.health, said.models, totals)
    assert [model.state for model in again.models] == [model.state for model in said.models]


@given(VALUES, st.sampled_from([400, 422]))
def test_a_wording_that_was_refused_is_put_without_what_was_refused(value, status):
    wording = RequestAdapter(NodeConfig("s", "http://s/v1", kind="openai", models={"m": "its own"}))
    body = json.dumps({"model": "m", "stream_options": {"include_usage": True}, "other": value}).encode()
    sent = wording.body("m", body)
    assert json.loads(sent)["model"] == "its own"
    assert not wording.learn(ApiError(status, "x", "temperature is too high"), sent)
    assert wording.learn(ApiError(status, "x", "stream_options: extra field"), sent)
    assert json.loads(wording.body("m", body)) == {"model": "its own", "other": value}
