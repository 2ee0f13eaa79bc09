"""What a directory makes of a model's hidden states besides texts: vectors, or scores of pairs.

sentence-transformers writes `modules.json`: the transformer, pooling, and what follows it, with a folder for
each that has settings; `sentence_bert_config.json` limits the length of an input. A directory without it is
told by the class that `config.json` names. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from neuron.models.checkpoint import CONFIG, Checkpoint, ModelLoadError, model_broken
from neuron.models.yes_no_ranker import answers, is_yes_no_ranker

MODULES = "modules.json"
SENTENCE_CONFIG = "sentence_bert_config.json"
PoolingMode = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]

_MODES_BY_FLAG: dict[str, PoolingMode] = {  # in the order in which their vectors follow each other
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_MODES = set(_MODES_BY_FLAG.values())
_SPARSE = {"SpladePooling", "MLMTransformer", "SparseAutoEncoder", "SparseStaticEmbedding", "CSR"}
_SPARSE_CAUSE = (
    "SPLADE and its kind make sparse vectors, which are not supported; use a dense embedding model"
)
_COLBERT_CAUSE = "ColBERT makes a vector of each token, which is not supported; use a dense model"
_ACTIVATIONS = {"Identity", "Sigmoid", "Tanh", "ReLU", "GELU", "SiLU"}
_RANKER = "ForSequenceClassification"
_WITH_HEADS = ("HeadModel", "HeadsModel")  # as GPT-2 and its like are called that write text


@dataclass(frozen=True, slots=True)
class Pooling:
    """How the hidden states of an input's tokens become one vector: several modes, one after the other."""

    modes: tuple[PoolingMode, ...]
    include_prompt: bool = True  # whether the tokens of a prompt count


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear layer with an activation, stored in a folder of its own."""

    folder: Path
    inputs: int
    outputs: int
    bias: bool
    activation: str  # a class of torch.nn
    residual: bool = False


@dataclass(frozen=True, slots=True)
class LayerNorm:
    folder: Path
    dimension: int


@dataclass(frozen=True, slots=True)
class Normalize:
    """To a length of one."""


Tail = Dense | LayerNorm | Normalize


@dataclass(frozen=True, slots=True)
class Embedding:
    """A model makes vectors."""

    pooling: Pooling
    tail: tuple[Tail, ...] = ()
    max_tokens: int | None = None  # of an input; None: only the model's own limit


@dataclass(frozen=True, slots=True)
class Ranking:
    """A model scores pairs of texts."""

    activation: str = "Sigmoid"
    true_token: int | None = None  # whose logit is the score; None: the class has a head for it
    false_token: int | None = None  # whose logit is taken off
    max_tokens: int | None = None


def read_sentence_modules(checkpoint: Checkpoint) -> Embedding | Ranking | None:
    """Return what a model makes of texts if it writes none. Raises ModelLoadError."""
    path, names = checkpoint.path, _architectures(checkpoint.config)
    if any("ColBERT" in name for name in names):
        raise _unsupported(checkpoint.config_file, _COLBERT_CAUSE)
    if path.is_dir() and (path / MODULES).is_file():
        return _of_modules(path, checkpoint.config, names)
    if any(name.endswith(_RANKER) for name in names):
        return _ranking(checkpoint.config_file, checkpoint.config)
    if path.is_dir() and is_yes_no_ranker(path):
        return Ranking("Sigmoid", *answers(path), max_tokens=_max_tokens(path))
    if is_bare_encoder(checkpoint.config):
        return Embedding(Pooling(("mean",)))
    return None


def is_bare_encoder(config: Mapping[str, Any]) -> bool:
    """Return whether a configuration is of a model without a head, or of one for masked tokens."""
    names = [name for name in _architectures(config) if not name.endswith(_WITH_HEADS)]
    return any(name.endswith(("Model", "ForMaskedLM")) for name in names)


def sentence_warnings(path: Path) -> list[str]:
    """Return what is to be known of a directory that embeds or ranks without saying so."""
    if is_yes_no_ranker(path):
        cause = f"there is no {MODULES}, but by its name it is Qwen3-Reranker, so it ranks and writes no text"
        return [f"{path}: {cause}; a model that was trained to chat needs another name"]
    if (path / MODULES).is_file() or not (path / CONFIG).is_file():
        return []
    try:
        config = _object(path / CONFIG)
    except ModelLoadError:  # which the load tells
        return []
    if not is_bare_encoder(config):
        return []
    cause = "a model without a head, so it makes embeddings: the mean of its last hidden states"
    cure = f"if it was trained otherwise, describe that in {MODULES}, as sentence-transformers does"
    return [f"{path / CONFIG}: {cause}; {cure}"]


def _of_modules(path: Path, config: Mapping[str, Any], names: list[str]) -> Embedding | Ranking:
    file = path / MODULES
    modules = _read(file)
    if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
        raise model_broken(file, "is not a list of modules")
    pooling: Pooling | None = None
    tail: list[Tail] = []
    for module in modules:
        folder = path / str(module.get("path", ""))
        match kind := _kind(file, module):
            case "LogitScore":
                return _logit_ranking(path, folder / CONFIG, config)
            case "Pooling":
                pooling = _pooling(folder / CONFIG)
            case "Dense":
                tail.append(_dense(folder))
            case "LayerNorm":
                tail.append(LayerNorm(folder, _size(folder / CONFIG, "dimension")))
            case "Normalize":
                tail.append(Normalize())
            case _ if kind != "Dropout" and (kind != "Transformer" or module.get("path")):
                cause = f"a module {kind} in {module.get('path') or 'the directory itself'} is not supported"
                raise _unsupported(file, cause)
    if pooling:
        return Embedding(pooling, tuple(tail), _max_tokens(path))
    if any(name.endswith(_RANKER) for name in names):
        return _ranking(path / CONFIG, config)
    raise _unsupported(file, "there is no pooling among its modules")


def _kind(file: Path, module: Mapping[str, Any]) -> str:
    """Return the name of a module's class, unless it makes vectors that nobody here reads."""
    name = str(module.get("type", ""))
    kind = name.rpartition(".")[2]
    if "pylate" in name or "multi_vector" in name:
        raise _unsupported(file, _COLBERT_CAUSE)
    if kind in _SPARSE:
        raise _unsupported(file, _SPARSE_CAUSE)
    return kind


def _pooling(file: Path) -> Pooling:
    config = _object(file)
    named = config.get("pooling_mode")
    modes: list[Any] = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    modes = modes or [mode for flag, mode in _MODES_BY_FLAG.items() if config.get(flag) is True]
    if not modes or not all(isinstance(mode, str) and mode in _MODES for mode in modes):
        raise _unsupported(file, f"at least one of {', '.join(_MODES_BY_FLAG)} must be true")
    return Pooling(tuple(modes), config.get("include_prompt", True) is not False)


def _dense(folder: Path) -> Dense:
    file = folder / CONFIG
    config = _object(file)
    if config.get("module_input_name", "sentence_embedding") != "sentence_embedding":
        raise _unsupported(file, _COLBERT_CAUSE)  # a vector of each token goes in
    activation = _activation(file, config.get("activation_function"), "Tanh")
    sizes = _size(file, "in_features"), _size(file, "out_features")
    residual = config.get("use_residual") is True
    return Dense(folder, *sizes, config.get("bias", True) is not False, activation, residual)


def _ranking(file: Path, config: Mapping[str, Any]) -> Ranking:
    """Return how the head of a class scores; transformers calls what it is for `labels`."""
    labels = config.get("id2label")
    count = len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)
    if count != 1:
        cause = f"it tells {count} labels apart, and ranks nothing; a ranker has one (num_labels, id2label)"
        raise _unsupported(file, cause)
    return Ranking(_ranking_activation(file, config), max_tokens=_max_tokens(file.parent))


def _logit_ranking(path: Path, file: Path, config: Mapping[str, Any]) -> Ranking:
    settings = _object(file)
    true, false = settings.get("true_token_id"), settings.get("false_token_id")
    if not isinstance(true, int) or not isinstance(false, int | None):
        raise model_broken(file, "true_token_id must be a token's id, and false_token_id too or null")
    activation = _ranking_activation(path / CONFIG, config)
    return Ranking(activation, true, false, max_tokens=_max_tokens(path))


def _ranking_activation(file: Path, config: Mapping[str, Any]) -> str:
    stated = config.get("sentence_transformers")
    named = stated.get("activation_fn") if isinstance(stated, dict) else None
    return _activation(file, named or config.get("sbert_ce_default_activation_function"), "Sigmoid")


def _activation(file: Path, named: Any, default: str) -> str:
    name = default if named is None else str(named).rpartition(".")[2]
    if name not in _ACTIVATIONS:
        raise _unsupported(file, f"the activation {named} is none of {', '.join(sorted(_ACTIVATIONS))}")
    return name


def _max_tokens(path: Path) -> int | None:
    config = _read(path / SENTENCE_CONFIG) if (path / SENTENCE_CONFIG).is_file() else {}
    limit = config.get("max_seq_length") if isinstance(config, dict) else None
    return limit if isinstance(limit, int) and limit > 0 else None


def _size(file: Path, key: str) -> int:
    found = _object(file).get(key)
    if not isinstance(found, int) or found < 1:
        raise model_broken(file, f"{key} must be a positive number")
    return found


def _architectures(config: Mapping[str, Any]) -> list[str]:
    names = config.get("architectures")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _unsupported(file: Path, cause: str) -> ModelLoadError:
    return ModelLoadError("model_unsupported", f"{file}: {cause}")


def _object(file: Path) -> dict[str, Any]:
    config = _read(file)
    return config if isinstance(config, dict) else {}


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise model_broken(file, f"is not readable as JSON: {error}") from error
