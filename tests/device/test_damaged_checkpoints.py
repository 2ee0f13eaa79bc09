"""Whatever stands in its files, a checkpoint's load fails with the file's name, or the model is whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from neuron.models.checkpoint import CONFIG, INDEX, WEIGHTS, ModelLoadError
from tests.device.serving import decoder
from tests.device.zoo import save
from tests.stubs.damaged import damage
from tests.stubs.mutations import nested

FAMILIES = ("llama", "qwen3_moe", "falcon_h1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with each family, whose weights are in an index, too."""
    path = tmp_path_factory.mktemp("whole")
    for family in FAMILIES:
        save(path / family, family)
        with safe_open(path / family / WEIGHTS, "pt") as file:
            names = dict.fromkeys(file.keys(), WEIGHTS)
        (path / family / INDEX).write_text(json.dumps({"weight_map": names}))
    return path


def load(path: Path) -> None:
    try:
        decoder(path)
    except ModelLoadError as error:
        assert error.code in {"model_broken", "model_unsupported"}  # noqa: PT017 - it may load as well
        assert str(path) in error.message  # noqa: PT017


@settings(
    max_examples=settings.default.max_examples // 2,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    seed=st.integers(0, 1 << 32),
    family=st.sampled_from(FAMILIES),
    name=st.sampled_from([CONFIG, INDEX, WEIGHTS, "generation_config.json"]),
)
def test_a_damaged_file_fails_the_load_or_does_no_harm(
    seed: int, family: str, name: str, whole: Path, tmp_path: Path
):
    shutil.rmtree(tmp_path / "model", ignore_errors=True)
    model = shutil.copytree(whole / family, tmp_path / "model")
    if name != INDEX:
        (model / INDEX).unlink()
    damage(Random(seed), model / name)  # noqa: S311
    load(model)


def test_a_header_that_is_nested_too_deeply_is_damaged(whole: Path, tmp_path: Path):
    model = shutil.copytree(whole / "llama", tmp_path / "model")
    header = nested().encode()
    (model / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelLoadError, match=rf"{model / WEIGHTS}: has a damaged safetensors header"):
        decoder(model)


def test_an_index_may_name_what_no_file_can_be_called(whole: Path, tmp_path: Path):
    model = shutil.copytree(whole / "llama", tmp_path / "model")
    (model / INDEX).write_text(json.dumps({"weight_map": {"a": "x" * 5000}}))
    with pytest.raises(ModelLoadError, match="is missing, but"):
        decoder(model)
