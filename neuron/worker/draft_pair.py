"""A model and a smaller one that drafts its answers: what they must share, and what the pair takes."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neuron.device.cuda_graphs import Capture
from neuron.device.draft_model import DraftedRunner
from neuron.device.guessing import GuessingRunner
from neuron.device.head_runner import HeadRunner
from neuron.device.kv_cache import bytes_per_token
from neuron.device.model_runner import ModelRunner
from neuron.device.rank_head_runner import RankHeadRunner
from neuron.device.varlen import Kernel, select_kernel
from neuron.models.checkpoint import ModelLoadError
from neuron.models.decoder import AnyDecoder
from neuron.models.embedder import Embedder
from neuron.models.multi_token import HeadWish
from neuron.worker.loaded_model import LoadedModel

_FILE = "tokenizer.json"
_CURE = "name another model in speculation, or 'ngram'"


def head_wish(speculation: str, draft: Path | None) -> HeadWish:
    """Return whether a model's own head is to draft."""
    if draft or speculation not in {"mtp", "auto"}:
        return None
    return "mtp" if speculation == "mtp" else "auto"


def check_vocabulary(path: Path, draft: Path) -> None:
    """Raise ModelLoadError unless both models call every token the same."""
    large, small = _vocabulary(path), _vocabulary(draft)
    if large != small:
        differing = len(large.items() ^ small.items())
        cause = f"its vocabulary is not that of {path}, for which it is to draft ({differing} entries differ)"
        raise _refused(draft / _FILE, cause)


def _vocabulary(path: Path) -> dict[str, int]:
    """Return the ids of a tokenizer file's tokens."""
    file = path / _FILE
    try:
        content: Any = json.loads(file.read_bytes())
        vocab = content["model"]["vocab"]
        named = vocab if isinstance(vocab, dict) else {pair[0]: at for at, pair in enumerate(vocab)}
        return named | {token["content"]: token["id"] for token in content.get("added_tokens") or ()}
    except OSError as error:
        raise _refused(file, f"cannot be read to compare vocabularies: {error.strerror}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise _refused(file, f"names no vocabulary that could be compared: {error!r}") from error


def pair(loaded: LoadedModel, draft: LoadedModel) -> LoadedModel:
    """Return a model that another one drafts for. Raises ModelLoadError for two that are no pair."""
    if isinstance(loaded.module, Embedder):
        raise _refused(loaded.path, "it writes no texts, and nothing can be drafted")
    if isinstance(draft.module, Embedder):
        raise _refused(draft.path, "it writes no texts, and cannot draft any")
    if draft.module.states or draft.module.prompt_rule:
        raise _refused(draft.path, "it keeps more of a text than keys and values, and so it cannot draft")
    if not draft.module.runs_rows_alone or any(s.is_text for s in draft.module.layers.values()):
        raise _refused(draft.path, "its tokens do not run one by one, and so it cannot draft")
    return replace(loaded, num_bytes=loaded.num_bytes + draft.num_bytes, draft=draft)


def _refused(path: Path, cause: str) -> ModelLoadError:
    return ModelLoadError("model_unsupported", f"{path}: {cause}: {_CURE}")


@dataclass(frozen=True, slots=True)
class DraftNeeds:
    """Bytes that a draft model takes beside its weights."""

    token_bytes: int = 0  # of each token in the pages
    activations: int = 0  # of its largest step
    least: int = 0  # with which it is useful


def draft_needs(draft: LoadedModel | None) -> DraftNeeds:
    """Return what a draft model takes, and nothing where there is none."""
    if draft is None or draft.estimate is None:
        return DraftNeeds()
    decoder, estimate = _decoder(draft), draft.estimate
    token_bytes = bytes_per_token(decoder.layers, decoder.dtype)
    return DraftNeeds(token_bytes, estimate.activations, estimate.cache + estimate.activations)


def _decoder(loaded: LoadedModel) -> AnyDecoder:
    assert not isinstance(loaded.module, Embedder)
    return loaded.module


def guessing_runner(
    runner: ModelRunner, loaded: LoadedModel, kernel: Kernel | None, capture: Capture | None
) -> ModelRunner | GuessingRunner:
    """Return what runs a model's steps and lets its head or its draft model guess, if it has one."""
    decoder = _decoder(loaded)
    if loaded.head:
        kind = RankHeadRunner if loaded.rank else HeadRunner
        return kind(runner, loaded.head, vocab_size=min(decoder.vocab_size, decoder.num_embeddings))
    if loaded.draft:
        return _drafted_runner(runner, decoder, loaded.draft, kernel, capture)
    return runner


def _drafted_runner(
    runner: ModelRunner,
    decoder: AnyDecoder,
    draft: LoadedModel,
    kernel: Kernel | None,
    capture: Capture | None,
) -> DraftedRunner:
    small = _decoder(draft)
    shape = replace(runner.shape, num_snapshots=0, num_host_pages=0, num_host_snapshots=0)
    found, size = select_kernel(kernel, small.layers, small.dtype, small.device, None)
    if size != shape.page_size:  # pages are the large model's
        found = None
    guessing = ModelRunner(small, small.layers, shape, kernel=found, capture=capture, table=runner.table)
    return DraftedRunner(
        runner,
        guessing,
        vocab_size=min(decoder.vocab_size, decoder.num_embeddings, small.vocab_size),
        num_embeddings=small.num_embeddings,
        context=small.context,
    )
