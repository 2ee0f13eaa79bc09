"""The tokenizer of a model directory: `tokenizer.json`, or what can be converted to it."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from tokenizers import Tokenizer

CONVERTER = "neuron.models.tokenizer_conversion"
CONVERSION_TIMEOUT_S = 600.0  # of a vocabulary of 200,000 tokens: some ten seconds
_SENTENCEPIECE = {"sentencepiece": "sentencepiece", "google.protobuf": "protobuf"}
_TIKTOKEN = {"tiktoken": "tiktoken"}
# Files that transformers converts, and the modules and packages that it needs to read them.
_SOURCES: dict[str, dict[str, str]] = {
    "tekken.json": {"mistral_common": "mistral-common"},  # only for files of the first versions
    "tiktoken.model": _TIKTOKEN,
    "tokenizer.model": _SENTENCEPIECE,
    "spiece.model": _SENTENCEPIECE,
    "*.tiktoken": _TIKTOKEN,
    "vocab.json": {},
    "vocab.txt": {},
}


class BrokenTokenizerError(Exception):
    """There is no tokenizer that can be read; the message names the file and the cause."""


def read_tokenizer(directory: Path) -> Tokenizer:
    """The directory's tokenizer, without truncation and padding. Raises `BrokenTokenizerError`.

    Blocks, for a conversion seconds long: it runs in a process of its own, and writes no file.
    """
    path = directory / "tokenizer.json"
    try:
        tokenizer = (
            Tokenizer.from_file(str(path)) if path.exists() else Tokenizer.from_str(_converted(directory))
        )
    except BrokenTokenizerError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise BrokenTokenizerError(f"{path}: not a tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _converted(directory: Path) -> str:
    """The text of a `tokenizer.json` made of the directory's other files."""
    found = next((path for pattern in _SOURCES for path in sorted(directory.glob(pattern))), None)
    if found is None:
        known = ", ".join(_SOURCES)
        raise BrokenTokenizerError(
            f"{directory / 'tokenizer.json'}: missing, and there is none of {known} to make it of"
        )
    command = [sys.executable, "-m", CONVERTER, str(directory.resolve())]
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, timeout=CONVERSION_TIMEOUT_S, check=True
        )
    except subprocess.TimeoutExpired as error:
        raise BrokenTokenizerError(
            f"{found}: not converted to a tokenizer.json within {CONVERSION_TIMEOUT_S:g} s"
        ) from error
    except subprocess.CalledProcessError as error:
        raise BrokenTokenizerError(f"{found}: {_cause(found, str(error.stderr))}") from error
    return run.stdout


def _cause(source: Path, output: str) -> str:
    """Why a conversion failed: a package that is missing, or the last line of what it said."""
    if find_spec("transformers") is None:
        return "to be converted it needs transformers: install the wheel's extra [neuron]"
    packages = _SOURCES[source.name if source.name in _SOURCES else "*.tiktoken"]
    missing = [package for module, package in packages.items() if not _is_installed(module)]
    if missing and (source.name != "tekken.json" or missing[0] in output):
        return f"to be converted it needs {' and '.join(missing)}: pip install {' '.join(missing)}"
    return f"cannot be converted: {(output.strip().splitlines() or ['no reason given'])[-1]}"


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # of the package above it
        return False
