"""Hugging Face's hub: what repositories have, and their downloads.

The library is slow to import, and a node that serves local models never needs it: each function imports it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from neuron.transfers import TRANSFERS, Transfer
from neuron.wire import ApiError

# Of a repository: the weights once, not the publisher's own layout or another precision of them as well.
NEEDED = ("model*.safetensors", "adapter_model.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
DOUBLE = ("original/*", "model.fp16*", "model.bf16*", "model.fp32*")
_KEPT = "Files that have come whole are kept: asking again fetches the others."


def listed(repo: str) -> list[str]:
    """Return the files of a repository; those on this machine where the hub cannot be asked.

    Raises `ApiError`.
    """
    from huggingface_hub import list_repo_files, snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return list(list_repo_files(repo))
    except HfHubHTTPError as error:
        raise _not_given(repo, error) from error
    except _connection_errors():
        try:
            path = Path(snapshot_download(repo, local_files_only=True))
        except LocalEntryNotFoundError as error:
            raise unreachable(repo) from error
        return [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]


def sizes(repo: str) -> dict[str, int]:
    """Return the bytes of each file of a repository, as the hub says now. Raises `ApiError`."""
    from huggingface_hub import HfApi  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    try:
        found = HfApi().model_info(repo, files_metadata=True)
    except HfHubHTTPError as error:
        raise _not_given(repo, error) from error
    except _connection_errors() as error:
        raise unreachable(repo) from error
    return {file.rfilename: file.size or 0 for file in found.siblings or ()}


def meant(files: Mapping[str, int], patterns: Sequence[str] = NEEDED) -> dict[str, int]:
    """Return those of the files that a download with these patterns takes."""
    from huggingface_hub.utils import filter_repo_objects  # noqa: PLC0415

    names = filter_repo_objects(files, allow_patterns=list(patterns), ignore_patterns=list(DOUBLE))
    return {name: files[name] for name in names}


def missing(repo: str, files: Mapping[str, int]) -> dict[str, int]:
    """Return those of the files that are not on this machine."""
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415

    return {
        name: size for name, size in files.items() if not isinstance(try_to_load_from_cache(repo, name), str)
    }


def cache_folder() -> Path:
    """Return where downloads go."""
    from huggingface_hub.constants import HF_HUB_CACHE  # noqa: PLC0415

    return Path(HF_HUB_CACHE)


def read_small(repo: str, name: str) -> dict[str, Any]:
    """Return a small JSON file of a repository, of which nothing is kept. Raises `ApiError`."""
    from huggingface_hub import hf_hub_download  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    try:
        with tempfile.TemporaryDirectory(prefix="hub-") as folder:
            value = json.loads(Path(hf_hub_download(repo, name, local_dir=folder)).read_bytes())
    except HfHubHTTPError as error:
        raise _not_given(repo, error) from error
    except _unreadable() as error:
        raise ApiError(422, "model_broken", f"{repo}: {name} cannot be read: {_first_line(error)}") from error
    return value if isinstance(value, dict) else {}


def download(repo: str, patterns: Sequence[str] = NEEDED) -> Path:
    """Return the directory of a repository, whose files that match are on this machine then.

    Raises `ApiError`. `TRANSFERS` tells how far it is.
    """
    with TRANSFERS.under_way(repo) as transfer:
        try:
            return _download(repo, patterns, transfer)
        except Exception as error:
            if transfer.is_cancelled:
                raise ApiError(409, "download_cancelled", f"{repo!r}: cancelled. {_KEPT}") from error
            raise


def cancel(repo: str) -> None:
    """Have the downloads of a repository end. Raises `ApiError` 404 if there is none.

    Their threads end at their next piece; those of Xet end with its session, which all downloads share.
    """
    TRANSFERS.cancel(repo)
    _XET.end()


class _XetSession:
    """The library's session of Xet storage, which can only be ended as a whole; others begin a new one."""

    def __init__(self) -> None:
        self.ended = 0

    def end(self) -> None:
        self.ended += 1
        with suppress(ImportError):  # versions that have no such session
            from huggingface_hub.utils._xet import abort_xet_session  # noqa: PLC0415

            abort_xet_session()


_XET = _XetSession()


def _download(repo: str, patterns: Sequence[str], transfer: Transfer) -> Path:
    """Return what is fetched, anew if the cancelling of another download ended this one's session."""
    while True:
        before = _XET.ended
        try:
            return _fetch(repo, patterns, transfer)
        except RuntimeError as error:  # what Xet raises
            if transfer.is_cancelled or _XET.ended == before:
                raise _failed(repo, error) from error


def _fetch(repo: str, patterns: Sequence[str], transfer: Transfer) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    from neuron.transfer_bar import bar_of  # noqa: PLC0415

    bar = bar_of(transfer, lambda: _missing_as_listed(repo, patterns))
    wanted = {"allow_patterns": list(patterns), "ignore_patterns": list(DOUBLE)}
    try:
        return Path(snapshot_download(repo, **wanted, tqdm_class=bar))
    except LocalEntryNotFoundError as error:
        raise unreachable(repo) from error
    except HfHubHTTPError as error:
        raise _not_given(repo, error) from error
    except _unreadable() as error:
        raise _failed(repo, error) from error


def _missing_as_listed(repo: str, patterns: Sequence[str]) -> int:
    """Return the bytes that are to come, by the list that the library has just stored; 0 without one."""
    try:
        from huggingface_hub import get_cached_repo_tree  # noqa: PLC0415
    except ImportError:  # of the library's first versions
        return 0
    try:
        files = {file.path: file.size for file in get_cached_repo_tree(repo)}
    except OSError:
        return 0
    return sum(missing(repo, meant(files, patterns)).values())


def _connection_errors() -> tuple[type[Exception], ...]:
    """Return what the library's HTTP client raises, whichever that is in its version, and the system."""
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    found: tuple[type[Exception], ...] = HfHubHTTPError.__bases__
    return (*found, OSError)


def _unreadable() -> tuple[type[Exception], ...]:
    return (*_connection_errors(), ValueError)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _not_given(repo: str, error: Exception) -> ApiError:
    message = f"The hub does not give {repo!r}: {_first_line(error)}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in {401, 403, 404}:
        message += (
            " If it is private, or its licence is to be accepted first, set HF_TOKEN where neuron runs."
        )
    return ApiError(404, "model_not_found", message, param="source")


def _failed(repo: str, error: Exception) -> ApiError:
    return ApiError(503, "download_failed", f"{repo!r}: {_first_line(error)}. {_KEPT}")


def unreachable(repo: str) -> ApiError:
    """Return the error for a repository that is needed while the hub does not answer."""
    message = (
        f"{repo!r} is neither on this machine nor in the hub's cache, and the hub cannot be reached. Let "
        "this host reach it (HTTPS_PROXY, HF_ENDPOINT), or put the model's files under models_dir."
    )
    return ApiError(503, "hub_unreachable", message)
