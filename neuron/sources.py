"""Where a model's files are: shipped with neuron, in a directory, under `models_dir`, or on the hub."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import NamedTuple

from neuron.models.checkpoint import CONFIG, WEIGHTS, model_broken, wrong_files
from neuron.models.in_situ import AS_STORED, IN_SITU
from neuron.models.tiny import WEIGHTS_DIR
from neuron.wire import ApiError

SHIPPED = {"helexa-tiny": WEIGHTS_DIR}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Of the hub's files: the weights once, not the publisher's own layout or another precision of them as well.
_NEEDED = ["model*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
_DOUBLE = ["original/*", "model.fp16*", "model.bf16*", "model.fp32*"]


class Found(NamedTuple):
    """Where a model is, and how its weights are quantized while they are loaded."""

    path: Path
    quant: str | None  # one of `IN_SITU`; None: they stay as they are stored


async def find(source: str, models_dir: Path | None, quant: str | None = None) -> Found:
    """The directory of a model, downloaded if only the hub has it.

    Raises `ApiError` with param `source`, or `quant` for one that it cannot have.
    """
    path = await _find(source, models_dir)
    name = (quant or AS_STORED).lower()
    if name not in {AS_STORED, *IN_SITU}:
        known = ", ".join(IN_SITU)
        message = f"quant: {quant!r} is none of {known} or {AS_STORED}, which {source!r} can have."
        raise ApiError(400, "unknown_quant", message, param="quant")
    return Found(path, None if name == AS_STORED else name)


async def _find(source: str, models_dir: Path | None) -> Path:
    if local := _local(source, models_dir):
        return local
    if _HUB_ID.fullmatch(source):
        return await asyncio.to_thread(_download, source)
    places = ["the models that ship with neuron"]
    places += [f"models_dir ({models_dir})"] if models_dir else []
    raise _not_found(f"There is no model {source!r} among {' or in '.join(places)}, and it is no hub id.")


def _local(source: str, models_dir: Path | None) -> Path | None:
    if source.startswith(("/", "./", "../", "~")):
        return _directory(Path(source).expanduser())
    if source in SHIPPED:
        return SHIPPED[source]
    if models_dir and (candidate := models_dir / source).is_dir() and candidate != models_dir:
        return _directory(candidate)
    return None


def _directory(path: Path) -> Path:
    if path.is_file():
        known = f"a model is a directory with {CONFIG} and {WEIGHTS}"
        raise ApiError(422, "model_unsupported", f"{path} is a file; {known}.", param="source")
    if not path.is_dir():
        raise _not_found(f"{path} is not a directory.")
    if not (path / CONFIG).is_file():
        error = wrong_files(path) or model_broken(path / CONFIG, "missing; this is no model directory.")
        raise ApiError(422, error.code, error.message)
    return path.resolve()


def _download(repo: str) -> Path:
    # The library is slow to import, and a node that serves local models never needs it.
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return Path(snapshot_download(repo, allow_patterns=_NEEDED, ignore_patterns=_DOUBLE))
    except LocalEntryNotFoundError as error:
        message = (
            f"{repo!r} is neither on this machine nor in the hub's cache, and the hub cannot be reached."
        )
        raise ApiError(503, "hub_unreachable", message) from error
    except HfHubHTTPError as error:
        raise _not_found(f"The hub does not give {repo!r}: {_first_line(error)}") from error
    except (OSError, ValueError) as error:
        raise ApiError(503, "download_failed", f"{repo!r}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _not_found(message: str) -> ApiError:
    return ApiError(404, "model_not_found", message, param="source")
