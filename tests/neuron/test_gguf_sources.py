"""Which GGUF file of a directory, or of a repository on the hub, is meant."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from neuron.sources import FoundModel, find
from neuron.wire import ApiError
from tests.stubs.model_dir import write_model

FILES = ["mmproj-F16.gguf", "tiny-IQ4_XS.gguf", "tiny-Q4_K_M.gguf", "tiny.q8_0.gguf", "imatrix.gguf"]
FILES += [f"BF16/tiny-BF16-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
FILES += ["UD-Q2_K_XL/tiny-UD-Q2_K_XL.gguf", "README.md"]
PRECISIONS = "BF16, UD-Q2_K_XL, IQ4_XS, Q4_K_M, q8_0"


def lay(directory: Path, names=FILES) -> Path:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(b"GGUF")
    return directory


async def refusal(source, quant=None, models_dir=None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await find(str(source), models_dir, quant)
    return caught.value


CHOICES = {
    "Q4_K_M": "tiny-Q4_K_M.gguf",
    "q4_k_m": "tiny-Q4_K_M.gguf",
    "Q8_0": "tiny.q8_0.gguf",
    "BF16": FILES[5],
    "Q2_K_XL": "UD-Q2_K_XL/tiny-UD-Q2_K_XL.gguf",
    "tiny-IQ4_XS.gguf": "tiny-IQ4_XS.gguf",
    "*IQ4*": "tiny-IQ4_XS.gguf",
}


@pytest.mark.parametrize("quant", CHOICES)
async def test_a_precision_a_name_or_a_pattern_chooses(tmp_path, quant):
    assert await find(str(lay(tmp_path)), None, quant) == FoundModel(tmp_path / CHOICES[quant], None)


async def test_a_file_and_a_directory_with_one_need_no_choice(tmp_path):
    lay(tmp_path / "org" / "tiny", ["mmproj.gguf", "tiny-Q4_0.gguf"])
    expected = FoundModel(tmp_path / "org/tiny/tiny-Q4_0.gguf", None)
    assert await find("org/tiny", tmp_path) == expected
    assert await find("org/tiny/tiny-Q4_0.gguf", tmp_path) == expected
    assert await find(str(expected.path), None, "Q4_0") == expected


async def test_a_link_keeps_its_name(tmp_path):
    """The hub's cache has the files of a repository as links to blobs, whose names say nothing."""
    (tmp_path / "blob").write_bytes(b"GGUF")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "tiny-Q4_0.gguf").symlink_to(tmp_path / "blob")
    expected = FoundModel(snapshot / "tiny-Q4_0.gguf", None)
    assert await find(str(snapshot), None) == expected
    assert await find(str(expected.path), None) == expected


@pytest.mark.parametrize(
    ("quant", "words"),
    [
        (None, "it must name one"),
        ("Q4_K", "'Q4_K' names none"),
        ("Q5_K_M", "'Q5_K_M' names none"),
        ("int4", "'int4' names none"),
    ],
)
async def test_what_does_not_choose_gets_the_list(tmp_path, quant, words):
    error = await refusal(lay(tmp_path), quant)
    assert (error.status, error.code, error.param) == (400, "unknown_quant", "quant")
    assert words in error.message
    assert PRECISIONS in error.message


async def test_several_of_a_pattern_are_listed(tmp_path):
    error = await refusal(lay(tmp_path), "tiny-*")
    assert "names several of IQ4_XS, Q4_K_M" in error.message


async def test_a_later_part_names_the_first(tmp_path):
    error = await refusal(lay(tmp_path) / FILES[6])
    assert (error.status, error.code) == (422, "model_unsupported")
    assert "name the first, tiny-BF16-00001-of-00003.gguf" in error.message


async def test_weights_of_a_file_are_not_quantized_anew(tmp_path):
    error = await refusal(lay(tmp_path) / "tiny-Q4_K_M.gguf", "q8_0")
    assert (error.status, error.code) == (400, "unknown_quant")


async def test_safetensors_go_before_gguf_files_unless_quant_names_one(tmp_path):
    directory = lay(write_model(tmp_path / "both"), ["tiny-Q4_0.gguf", "tiny-Q8_0.gguf"])
    (directory / "model.safetensors").write_bytes(b"")
    assert await find(str(directory), None) == FoundModel(directory, None)
    assert await find(str(directory), None, "Q4_0") == FoundModel(directory / "tiny-Q4_0.gguf", None)
    assert await find(str(directory), None, "int4") == FoundModel(directory, "int4")
    assert "Q4_0, Q8_0, q8_0, q4_k, int4, fp8 or none" in (await refusal(directory, "Q3_K")).message


class Hub:
    """Files on the hub, and what was downloaded of them."""

    def __init__(self, cache: Path, names: list[str]) -> None:
        self.cache = cache
        self.names = names
        self.is_reachable = True
        self.downloaded: list[str] = []

    def list_repo_files(self, repo):
        if not self.is_reachable:
            raise HfHubHTTPError.__bases__[0]("offline")  # of the HTTP client of its version
        return self.names

    def snapshot_download(self, repo, *, local_files_only=False, tqdm_class=None, **patterns):
        if not self.is_reachable and not self.cache.exists():
            raise LocalEntryNotFoundError("offline")
        if not local_files_only:
            wanted = list(huggingface_hub.utils.filter_repo_objects(self.names, **patterns))
            lay(self.cache, wanted)
            self.downloaded += wanted
        self.cache.mkdir(exist_ok=True)
        return str(self.cache)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub(tmp_path / "cache", FILES)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", hub.list_repo_files)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    return hub


async def test_of_a_repository_the_chosen_file_is_downloaded_alone(hub):
    assert await find("org/tiny-GGUF", None, "Q4_K_M") == FoundModel(hub.cache / "tiny-Q4_K_M.gguf", None)
    assert hub.downloaded == ["tiny-Q4_K_M.gguf"]


async def test_all_parts_are_downloaded(hub):
    assert await find("org/tiny-GGUF", None, "BF16") == FoundModel(hub.cache / FILES[5], None)
    assert hub.downloaded == FILES[5:8]


async def test_a_repository_without_safetensors_lists_its_precisions(hub):
    error = await refusal("org/tiny-GGUF")
    assert (error.status, error.code, error.param) == (400, "unknown_quant", "quant")
    assert PRECISIONS in error.message
    assert not any(name.endswith(".gguf") for name in hub.downloaded)


async def test_without_the_hub_what_was_downloaded_is_found(hub):
    hub.is_reachable = False
    assert (await refusal("org/tiny-GGUF", "Q4_K_M")).code == "hub_unreachable"
    lay(hub.cache, ["tiny-Q4_K_M.gguf"])
    hub.names = []
    assert await find("org/tiny-GGUF", None, "Q4_K_M") == FoundModel(hub.cache / "tiny-Q4_K_M.gguf", None)


async def test_plain_numbers_of_a_repository_are_quantized_as_asked(hub):
    hub.names = ["model.safetensors", "config.json"]
    assert await find("org/tiny", None, "int4") == FoundModel(hub.cache, "int4")
    assert hub.downloaded == hub.names
