"""What a load would find, and how far a download is."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from pathlib import Path

import huggingface_hub.constants
import pytest

from neuron.hub import cancel, download
from neuron.models.tiny import WEIGHTS_DIR
from neuron.preflight import preflight
from neuron.transfers import TRANSFERS, Transfers
from neuron.wire import ApiError, Preflight
from tests.neuron.conftest import Neuron, config, neuron_with
from tests.stubs.fake_hub import FakeHub, fake_hub

TINY = "helexa-tiny"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "hub"
    shutil.copytree(WEIGHTS_DIR, folder / "org" / "tiny")
    (folder / "org" / "pickled").mkdir()
    (folder / "org" / "pickled" / "model.bin").write_bytes(b"x")
    with fake_hub(folder) as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield hub


async def refusal(source: str) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await preflight(source, None)
    return caught.value


def formats(found: Preflight) -> list[str]:
    return [choice.format for choice in found.choices]


async def test_a_model_on_the_disk_is_described():
    found = await preflight(TINY, None)
    assert (found.place, found.architecture, found.context) == ("shipped", "Qwen3ForCausalLM", 40960)
    assert formats(found) == ["bf16", "q8_0", "q4_k", "int4", "fp8"]
    weights = [choice.weights_mb for choice in found.choices]
    assert weights[0] == 10
    assert weights[0] > weights[1] > weights[2]
    assert {choice.download_mb for choice in found.choices} == {0}
    assert found.cache_mb_per_1k == 2.93  # 4 layers of 3 heads of 64 values, keys and values, 2 bytes each


async def test_a_repository_is_described_and_nothing_of_it_is_kept(hub: FakeHub, tmp_path: Path):
    found = await preflight("org/tiny", None)
    assert (found.place, found.choices[0].download_mb) == ("hub", 10)
    assert found.disk_free_mb
    assert not (tmp_path / "cache").exists()


async def test_published_precisions_are_choices_with_their_parts(tmp_path: Path):
    for name, size in {
        "m-Q4_K_M.gguf": 1,
        "m-BF16-00001-of-00002.gguf": 2,
        "m-BF16-00002-of-00002.gguf": 3,
    }.items():
        (tmp_path / name).write_bytes(bytes(size << 20))
    (tmp_path / "config.json").write_text("{}")
    found = await preflight(str(tmp_path), None)
    assert [(choice.quant, choice.weights_mb) for choice in found.choices] == [("BF16", 5), ("Q4_K_M", 1)]


async def test_quantized_weights_are_loaded_as_they_are(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}')
    (tmp_path / "model.safetensors").write_bytes(bytes(1 << 20))
    assert formats(await preflight(str(tmp_path), None)) == ["awq"]


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        ("org/nothing", "model_not_found", "HF_TOKEN"),
        ("org/pickled", "model_unsupported", "safetensors"),
        ("nothing", "model_not_found", "no hub id"),
        ("/does/not/exist", "model_not_found", "no directory"),
    ],
)
async def test_what_is_no_model_is_refused_as_by_a_load(hub: FakeHub, source: str, code: str, words: str):
    error = await refusal(source)
    assert (error.code, words in error.message) == (code, True)


async def test_an_unreachable_hub_is_named_with_the_cure(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    error = await refusal("org/elsewhere")
    assert (error.status, error.code) == (503, "hub_unreachable")
    assert "HTTPS_PROXY" in error.message


async def test_a_download_is_told_of_while_it_runs_and_after(hub: FakeHub):
    spec = {"model_id": "m", "source": "org/tiny"}
    async with neuron_with(config()) as neuron:
        found = await neuron.http.post("/models/preflight", json={"source": "org/tiny"})
        assert found.json()["choices"][0]["download_mb"] == 10
        hub.go_on.clear()
        assert (await neuron.http.post("/models/download", json=spec)).json()["status"] == "downloading"

        async def told() -> list[dict[str, object]]:
            return [
                each for each in (await neuron.http.get("/downloads")).json() if each["source"] == "org/tiny"
            ]

        while not (await told()):
            await asyncio.sleep(0.02)
        (running,) = await told()
        assert (running["state"], running["total_mb"]) == ("running", 10)
        hub.go_on.set()
        while (await told())[0]["state"] == "running":
            await asyncio.sleep(0.02)
        assert (await told())[0] | {"seconds": None} == running | {
            "state": "done",
            "done_mb": 10,
            "seconds": None,
        }


def kept_files(folder: Path) -> set[str]:
    """The names of files in the hub's cache."""
    return {path.name for path in folder.glob("cache/**/*") if path.is_file()}


async def state_of(neuron: Neuron, source: str, *passing: str) -> str:
    """The state of the download of `source`, as soon as it is none of `passing`."""
    while True:
        told = (await neuron.http.get("/downloads")).json()
        states = [each["state"] for each in told if each["source"] == source]
        if states and states[0] not in passing:
            return str(states[0])
        await asyncio.sleep(0.02)


async def test_a_download_is_cancelled_and_goes_on_when_it_is_asked_for_again(hub: FakeHub, tmp_path: Path):
    spec = {"model_id": "m", "source": "org/tiny"}
    async with neuron_with(config()) as neuron:
        hub.go_on.clear()
        await neuron.http.post("/models/download", json=spec)
        assert await state_of(neuron, "org/tiny", "done") == "running"
        answer = await neuron.http.post("/downloads/cancel", json={"source": "org/tiny"})
        assert answer.json()["status"] == "cancelling"
        hub.go_on.set()
        assert await state_of(neuron, "org/tiny", "running", "cancelling") == "cancelled"
        (told,) = (
            each for each in (await neuron.http.get("/downloads")).json() if each["source"] == "org/tiny"
        )
        assert "Files that have come whole are kept" in told["message"]
        kept = kept_files(tmp_path)
        assert not any(name.endswith(".incomplete") for name in kept)
        hub.given.clear()
        await neuron.http.post("/models/download", json=spec)
        assert await state_of(neuron, "org/tiny", "running", "cancelled") == "done"
        assert "model.safetensors" in hub.given
        assert not kept & set(hub.given)


async def test_cancelling_what_is_not_under_way_is_refused():
    async with neuron_with(config()) as neuron:
        answer = await neuron.http.post("/downloads/cancel", json={"source": "org/other"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "download_not_found")


def test_a_download_goes_on_when_the_cancelling_of_another_ends_its_session(monkeypatch: pytest.MonkeyPatch):
    tries = []

    def fetch(repo: str, **_: object) -> str:
        tries.append(repo)
        if len(tries) == 1:
            with TRANSFERS.under_way("org/other"):
                cancel("org/other")
            raise RuntimeError("Operation cancelled")
        return "/here"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert download("org/this") == Path("/here")
    assert tries == ["org/this", "org/this"]


async def test_a_download_that_cannot_begin_is_told_of(hub: FakeHub):
    async with neuron_with(config()) as neuron:
        await neuron.http.post("/models/download", json={"model_id": "org/nothing"})
        while not (found := [each for each in TRANSFERS.list() if each.source == "org/nothing"]):
            await asyncio.sleep(0.02)
        assert (found[0].state, "does not give" in found[0].message) == ("failed", True)


def test_a_download_that_had_nothing_to_do_is_not_told_of():
    transfers = Transfers()
    with transfers.under_way("org/here") as transfer:
        assert transfer.fraction is None
    assert transfers.list() == []


def test_a_download_that_fails_keeps_its_reason():
    transfers = Transfers()
    with pytest.raises(ApiError), transfers.under_way("org/x"):
        raise ApiError(503, "hub_unreachable", "no way")
    assert [(each.state, each.message) for each in transfers.list()] == [("failed", "no way")]
    transfers.refuse("org/x", "no way")
    assert len(transfers.list()) == 1


def test_a_failure_after_a_cancelled_download_is_told_of():
    transfers = Transfers()
    with suppress(ApiError), transfers.under_way("org/x"):
        transfers.cancel("org/x")
        raise ApiError(409, "download_cancelled", "cancelled")
    transfers.refuse("org/x", "cancelled")
    assert [each.state for each in transfers.list()] == ["cancelled"]
    transfers.refuse("org/x", "no hub")
    assert [(each.state, each.message) for each in transfers.list()] == [("failed", "no hub")]
