"""Which of a repository's GGUF files is meant: they hold one model in several precisions.

Files are named by people. What they agree on is that a name contains the precision, `tiny-Q4_K_M.gguf`, or
stands in a folder that is called so, and that parts are numbered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from neuron.models.gguf.split_files import SUFFIX, is_later_part

# Files beside a model's own: what sees for it, and what quantizers were told.
_BESIDE = re.compile(r"mmproj|imatrix", re.IGNORECASE)
_PRECISION = re.compile(
    r"(?<![A-Za-z0-9])(?:UD-)?(?:I?Q\d\w*|TQ\d_\d|MXFP4\w*|NVFP4|BF16|F16|F32)(?![A-Za-z0-9])", re.IGNORECASE
)


def models_among(names: Iterable[str]) -> list[str]:
    """Return the GGUF files that begin a model, as paths from the repository on."""
    found = [name for name in names if name.lower().endswith(SUFFIX)]
    return sorted(
        name
        for name in found
        if not _BESIDE.search(PurePosixPath(name).name) and not is_later_part(PurePosixPath(name).name)
    )


def matching(models: Sequence[str], quant: str) -> list[str]:
    """Return the models that `quant` means: a precision, a file's name, or a pattern of names."""
    if not (wanted := quant.lower()):
        return []
    exact = [name for name in models if wanted in {name.lower(), PurePosixPath(name).name.lower()}]
    if exact:
        return exact
    if any(sign in quant for sign in "*?["):
        return [name for name in models if fnmatchcase(name.lower(), wanted)]
    word = re.compile(rf"(?<![a-z0-9]){re.escape(wanted)}(?![a-z0-9_])")
    return [name for name in models if word.search(name.lower())]


def precisions(models: Sequence[str]) -> list[str]:
    """Return what to ask for: each model's precision, or its name where it has none or shares it."""
    labels = [_precision(name) for name in models]
    return [
        label if label and labels.count(label) == 1 else name
        for name, label in zip(models, labels, strict=True)
    ]


def _precision(name: str) -> str | None:
    found = _PRECISION.findall(name.removesuffix(SUFFIX))
    return found[-1] if found else None
