"""Where a model's files are: shipped with neuron, on the disk, under `models_dir`, or on the hub.

A model is a directory as Hugging Face has it, or GGUF files. Where there are both, its safetensors are meant
unless `quant` names a GGUF file's precision.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from neuron import hub
from neuron.models.checkpoint import ADAPTER, CONFIG, model_broken, wrong_files
from neuron.models.gguf.split_files import SUFFIX, is_gguf, is_later_part, part_names
from neuron.models.in_situ import AS_STORED, IN_SITU
from neuron.models.tiny import WEIGHTS_DIR
from neuron.published_files import matching, models_among, precisions
from neuron.wire import ApiError

SHIPPED = {"helexa-tiny": WEIGHTS_DIR}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class FoundModel(NamedTuple):
    """Where a model or an adapter is, and how its weights are quantized while they are loaded."""

    path: Path  # of its directory, or of its first GGUF file
    quant: str | None  # one of `IN_SITU`; None: they stay as they are stored
    is_adapter: bool = False


async def find(source: str, models_dir: Path | None, quant: str | None = None) -> FoundModel:
    """The files of a model, downloaded if only the hub has it.

    Raises `ApiError` with param `source`, or `quant` for one that it cannot have.
    """
    quant = None if quant is None or quant.lower() in {"", AS_STORED} else quant
    if path := local_path(source, models_dir):
        return _on_disk(source, path, quant)
    if HUB_ID.fullmatch(source):
        return await asyncio.to_thread(_on_hub, source, quant)
    raise not_among(source, models_dir)


# --- on the disk ------------------------------------------------------------------------------------------


def local_path(source: str, models_dir: Path | None) -> Path | None:
    """Return the path that a source names, whatever is there; None for one that is not local."""
    if source.startswith(("/", "./", "../", "~")):
        return Path(source).expanduser()
    if source in SHIPPED:
        return SHIPPED[source]
    if models_dir and (candidate := models_dir / source) != models_dir:
        return candidate if candidate.is_dir() or (candidate.is_file() and is_gguf(candidate)) else None
    return None


def _on_disk(source: str, path: Path, quant: str | None) -> FoundModel:
    if path.is_file():
        _check_file(path)
        if quant is not None and not matching([path.name], quant):
            cause = f"weights of GGUF files stay as they are stored, which is not {quant!r}"
            raise _wrong_quant(f"quant: {source!r}: {cause}.")
        return FoundModel(path.absolute(), None)
    if not path.is_dir():
        raise _not_found(f"{path} is not a directory.")
    return _in_directory(source, path, quant)


def _check_file(path: Path) -> None:
    if not is_gguf(path):
        raise _unsupported(f"{path} is a file; a model is a directory with {CONFIG}, or a {SUFFIX} file.")
    if is_later_part(path.name):
        raise _unsupported(f"{path} is a later part of a model; name the first, {part_names(path.name)[0]}.")


def _in_directory(source: str, path: Path, quant: str | None) -> FoundModel:
    files = [*path.glob(f"*{SUFFIX}"), *path.glob(f"*/*{SUFFIX}")]
    models = models_among(file.relative_to(path).as_posix() for file in files)
    has_weights = (path / CONFIG).is_file() and any(path.glob("*.safetensors"))
    if name := _chosen(source, models, quant, must=not has_weights):
        return FoundModel((path / name).absolute(), None)  # the hub's cache has links to files without names
    if not (path / CONFIG).is_file() and (path / ADAPTER).is_file():
        return _adapter(source, path, quant)
    if not (path / CONFIG).is_file():
        error = wrong_files(path) or model_broken(path / CONFIG, "missing; this is no model directory.")
        raise ApiError(422, error.code, error.message)
    return FoundModel(path.resolve(), _in_situ(source, models, quant))


def _adapter(source: str, path: Path, quant: str | None) -> FoundModel:
    if quant is not None:
        raise _wrong_quant(f"quant: {source!r} is an adapter, which stays as it is; leave quant out.")
    return FoundModel(path.resolve(), None, is_adapter=True)


def _chosen(source: str, models: Sequence[str], quant: str | None, *, must: bool) -> str | None:
    """Return the GGUF file that is meant; None where weights of another kind are. Raises `ApiError`."""
    found = list(models) if quant is None and must else matching(models, quant or "")
    if len(found) == 1 or (not found and not (must and models)):
        return found[0] if found else None
    known = ", ".join(precisions(found or models))
    named = "it must name one" if quant is None else f"{quant!r} names {'several' if found else 'none'}"
    raise _wrong_quant(f"quant: {named} of {known}, which {source!r} has.")


def _in_situ(source: str, models: Sequence[str], quant: str | None) -> str | None:
    """Return how weights are to be quantized that no GGUF file holds. Raises `ApiError`."""
    if quant is None or quant.lower() in IN_SITU:
        return quant and quant.lower()
    known = ", ".join([*precisions(models), *IN_SITU])
    raise _wrong_quant(f"quant: {quant!r} is none of {known} or {AS_STORED}, which {source!r} can have.")


# --- on the hub -------------------------------------------------------------------------------------------


def _on_hub(repo: str, quant: str | None) -> FoundModel:
    """Download what is meant of a repository, and no other precision of it."""
    models: list[str] = []
    if quant is not None:
        models = models_among(hub.listed(repo))
        if name := _chosen(repo, models, quant, must=False):
            return _download_gguf(repo, name)
        quant = _in_situ(repo, models, quant)
    path = hub.download(repo)
    if path.is_dir() and not any(path.glob("*.safetensors")):
        models = models or models_among(hub.listed(repo))
        if name := _chosen(repo, models, quant, must=True):
            return _download_gguf(repo, name)
    if not (path / CONFIG).is_file() and (path / ADAPTER).is_file():
        return _adapter(repo, path, quant)
    return FoundModel(path, quant)


def _download_gguf(repo: str, name: str) -> FoundModel:
    folder = name.rpartition("/")[0]
    parts = [f"{folder}/{part}".lstrip("/") for part in part_names(name.rpartition("/")[2])]
    return FoundModel(hub.download(repo, parts) / name, None)


# --- refusals ---------------------------------------------------------------------------------------------


def not_among(source: str, models_dir: Path | None) -> ApiError:
    """Return the error for a source that is nothing here and no hub id."""
    places = ["the models that ship with neuron"]
    places += [f"models_dir ({models_dir})"] if models_dir else []
    return _not_found(f"There is no model {source!r} among {' or in '.join(places)}, and it is no hub id.")


def _not_found(message: str) -> ApiError:
    return ApiError(404, "model_not_found", message, param="source")


def _unsupported(message: str) -> ApiError:
    return ApiError(422, "model_unsupported", message, param="source")


def _wrong_quant(message: str) -> ApiError:
    return ApiError(400, "unknown_quant", message, param="quant")
