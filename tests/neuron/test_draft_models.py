"""A model that drafts another's answers is named in that one's `speculation`."""

from __future__ import annotations

from pathlib import Path

from tests.neuron.conftest import config, neuron_with
from tests.neuron.test_adapters import adapter_at
from tests.stubs.model_dir import write_model


async def test_a_draft_model_is_loaded_with_the_model(model_dir: Path, tmp_path: Path):
    small = write_model(tmp_path / "small")
    async with neuron_with(config()) as neuron:
        assert (await neuron.load(model_dir, speculation=str(small))).status_code == 200
        assert (await neuron.models())["m"]["memory_parts"] == {"weights": 50, "draft": 10}
    models = [{"id": "m", "source": str(model_dir), "speculation": "ngram"}]
    async with neuron_with(config(models=models)) as neuron:
        await neuron.load(model_dir)
        assert (await neuron.models())["m"]["memory_parts"] == {}


async def test_the_first_rank_of_a_group_loads_the_draft_model(model_dir: Path, tmp_path: Path):
    small = write_model(tmp_path / "small")
    async with neuron_with(config(), devices=2) as neuron:
        loaded = await neuron.load(model_dir, tensor_parallel=2, speculation=str(small))
        assert loaded.status_code == 200
        assert (await neuron.models())["m"]["memory_parts"] == {"weights": 50, "draft": 10}
        assert (await neuron.chat("echo hi")).status_code == 200


async def test_what_drafts_nothing_is_refused(model_dir: Path, tmp_path: Path):
    adapter = adapter_at(tmp_path / "tuned")
    async with neuron_with(config()) as neuron:
        for name, status, cause in (
            ("ngrams", 404, "is none of auto, ngram, off, mtp, and no model"),
            (str(tmp_path / "nothing"), 404, "is none of auto, ngram, off, mtp, and no model"),
            (str(adapter), 422, "is an adapter, which drafts nothing"),
        ):
            refused = await neuron.load(model_dir, speculation=name)
            error = refused.json()["error"]
            assert (refused.status_code, error["param"]) == (status, "speculation"), error
            assert cause in error["message"]
