"""How a model's hidden states become one vector, as its directory says. Imports no torch.

sentence-transformers writes `modules.json` (transformer, pooling, perhaps normalization) and a folder with a
`config.json` for the pooling; `sentence_bert_config.json` limits the length of an input.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from neuron.models.checkpoint import ModelLoadError, model_broken

MODULES = "modules.json"
SENTENCE_CONFIG = "sentence_bert_config.json"
PoolingMode = Literal["cls", "mean", "last"]

_MODES_BY_FLAG: dict[str, PoolingMode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}
_MODES_BY_NAME: dict[str, PoolingMode] = {"cls": "cls", "mean": "mean", "lasttoken": "last"}


@dataclass(frozen=True, slots=True)
class Pooling:
    mode: PoolingMode
    normalize: bool
    max_tokens: int | None  # of an input; None: only the model's own limit


def read_pooling(path: Path) -> Pooling | None:
    """Return a model's pooling, or None when it makes no embeddings. Raises ModelLoadError."""
    if not (path / MODULES).is_file():
        return None
    modules = _read(path / MODULES)
    if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
        raise model_broken(path / MODULES, "is not a list of modules")
    mode: PoolingMode | None = None
    normalize = False
    for module in modules:
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == "Pooling":
            mode = _mode(path / str(module.get("path", "")) / "config.json")
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer" or module.get("path"):
            cause = f"a module {kind} in {module.get('path') or 'the directory itself'} is not supported"
            raise ModelLoadError("model_unsupported", f"{path / MODULES}: {cause}")
    if mode is None:
        raise ModelLoadError("model_unsupported", f"{path / MODULES}: there is no pooling among its modules")
    return Pooling(mode, normalize, _max_tokens(path))


def _mode(file: Path) -> PoolingMode:
    config = _read(file)
    config = config if isinstance(config, dict) else {}
    name = config.get("pooling_mode")
    modes = [mode for flag, mode in _MODES_BY_FLAG.items() if config.get(flag) is True]
    if isinstance(name, str) and name in _MODES_BY_NAME:
        modes.append(_MODES_BY_NAME[name])
    if len(modes) != 1:
        flags = ", ".join(_MODES_BY_FLAG)
        raise ModelLoadError("model_unsupported", f"{file}: exactly one of {flags} must be true")
    return modes[0]


def _max_tokens(path: Path) -> int | None:
    config = _read(path / SENTENCE_CONFIG) if (path / SENTENCE_CONFIG).is_file() else {}
    limit = config.get("max_seq_length") if isinstance(config, dict) else None
    return limit if isinstance(limit, int) and limit > 0 else None


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise model_broken(file, f"is not readable as JSON: {error}") from error
