from __future__ import annotations

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from neuron.models.tiny import WEIGHTS_DIR
from neuron.sources import FoundModel, find
from neuron.wire import ApiError
from tests.stubs.model_dir import write_model


async def test_shipped_model_is_found_by_its_name():
    assert await find("helexa-tiny", None) == FoundModel(WEIGHTS_DIR, None)


async def test_directories_and_names_in_models_dir_are_found(tmp_path):
    directory = write_model(tmp_path / "org" / "name")
    assert await find(str(directory), None) == FoundModel(directory, None)
    assert await find("org/name", tmp_path) == FoundModel(directory, None)


async def refusal(source, models_dir=None):
    with pytest.raises(ApiError) as caught:
        await find(source, models_dir)
    return caught.value


async def test_refusal_of_an_unknown_model_says_where_it_was_looked_for(tmp_path):
    error = await refusal("nothing", tmp_path)
    assert (error.status, error.code, error.param) == (404, "model_not_found", "source")
    assert str(tmp_path) in error.message
    assert (await refusal("/does/not/exist")).status == 404


async def test_a_directory_without_config_is_no_model(tmp_path):
    (tmp_path / "x").mkdir()
    error = await refusal("x", tmp_path)
    assert (error.status, error.code) == (422, "model_broken")
    assert "config.json" in error.message


async def test_other_formats_are_named_as_what_they_are(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "pytorch_model.bin").write_bytes(b"")
    file = str(tmp_path / "x" / "pytorch_model.bin")
    for source, words in {"x": "is pickled", file: "is a file; a model"}.items():
        error = await refusal(source, tmp_path)
        assert (error.status, error.code) == (422, "model_unsupported")
        assert words in error.message


async def test_each_weight_is_downloaded_once(monkeypatch):
    """The layouts of gpt-oss, Mistral and sentence-transformers repositories."""
    needed = ["config.json", "tokenizer.json", "model.safetensors.index.json", "1_Pooling/config.json"]
    needed += ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    others = ["original/model.safetensors", "consolidated-00001-of-00001.safetensors", "metal/model.bin"]
    others += ["pytorch_model.bin", "model.fp16.safetensors", "onnx/model.onnx"]
    wanted: list[str] = []

    def download(repo, *, tqdm_class, **patterns):
        wanted.extend(huggingface_hub.utils.filter_repo_objects(needed + others, **patterns))
        return str(WEIGHTS_DIR)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    await find("org/name", None)
    assert wanted == needed


async def test_hub_ids_are_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **_: str(tmp_path / repo))
    assert (await find("org/name", None)).path == tmp_path / "org" / "name"


@pytest.mark.parametrize(
    ("quant", "found"), [("q8_0", "q8_0"), ("Q4_K", "q4_k"), ("none", None), ("", None), (None, None)]
)
async def test_plain_numbers_are_quantized_as_asked(quant, found):
    assert await find("helexa-tiny", None, quant) == FoundModel(WEIGHTS_DIR, found)


async def test_refusal_of_a_quant_lists_what_there_is():
    with pytest.raises(ApiError, match="q8_0, q4_k, int4, fp8 or none") as caught:
        await find("helexa-tiny", None, "q4_0")
    error = caught.value
    assert (error.status, error.code, error.param) == (400, "unknown_quant", "quant")


class NotFoundError(HfHubHTTPError):
    def __init__(self):
        Exception.__init__(self, "404 Client Error.\nmore")


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (LocalEntryNotFoundError("offline"), 503, "hub_unreachable"),
        (NotFoundError(), 404, "model_not_found"),
        (OSError("disk full"), 503, "download_failed"),
    ],
)
async def test_failed_download_says_why(monkeypatch, failure, status, code):
    def download(repo, **_):
        raise failure

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    error = await refusal("org/name")
    assert (error.status, error.code) == (status, code)
    assert "org/name" in error.message
    assert "\n" not in error.message
