"""What a loaded model asks of attention and states, learned by running it.

A model that would run wrongly is refused here: a few tokens go through every layer, and what the layers ask
of their attention and which states they keep is recorded. A model that keeps states, or has layers of which
nothing was recorded, must come to the same logits when it reads those tokens piece by piece.

Of a model that is `known`, whose arithmetic tests have compared with transformers', only shapes are to be
learned: its tokens pass without a look at its weights, which may be in a file that is not read yet.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuron.device.attention import use_backend
from neuron.device.batch import Batch
from neuron.device.image_embedder import ImageEmbedder
from neuron.device.image_positions import ImagePositions
from neuron.device.kv_cache import KVCache, PageTable
from neuron.device.model import DecoderModel, ImageEmbeddings
from neuron.device.sdpa import SdpaAttention
from neuron.device.selection import use_index_keys
from neuron.device.sequences import StepSequences, use_sequences
from neuron.device.state_pool import StatePool, group_states, use_state_groups
from neuron.models.architecture import model_unsupported
from neuron.models.attention_interface import PROBE_NAME, AttentionProbe, attention_of_text
from neuron.models.attention_masks import ImageMaskRecorder, MaskRecorder, UnsupportedAttentionError
from neuron.models.checkpoint import Checkpoint, model_broken
from neuron.models.config_sizes import SILENT_LAYERS
from neuron.models.index_cache import IndexProbe
from neuron.models.indexer_interface import find_indexers, has_indexers
from neuron.models.latent_interface import keep_latents
from neuron.models.products_of_zeros import ProductsOfZeros
from neuron.models.state_interface import (
    StatefulModule,
    StateProbe,
    cache_argument,
    keeps_states,
    layer_types,
)
from neuron.pipe import Sampling
from neuron.step import CacheShape, Chunk, Encoding, Joined, PromptImage, PromptRule, StepPlan

_TOKENS = 16  # enough to remember
_PIECES = (0, 7, 13, 15, _TOKENS)  # bounds between what is read at once
# How far logits may be from each other, the root of the mean square in their standard deviations: more than
# rounding brings about, less than a forgotten state.
_TOLERANCES = {torch.float32: 0.005, torch.float16: 0.05, torch.bfloat16: 0.15}


@dataclass(frozen=True, slots=True)
class Probe:
    """What was found: the logits follow the last of the `tokens`."""

    attention: AttentionProbe
    states: StateProbe | None  # of a model that keeps some
    tokens: tuple[int, ...]
    logits: Tensor  # (vocab,)
    first_position: int  # of a sequence's first token, as the model counts
    has_silent_layers: bool  # which neither attend nor say that they do not
    index: IndexProbe | None = None  # of a model with indexers: the logits are by transformers' own attention
    is_known: bool = False  # its logits are zeros

    @property
    def prompt_rule(self) -> PromptRule | None:
        rules = (params.prompt for params in self.attention.params.values())
        return next((rule for rule in rules if rule), None)

    @property
    def sees_images_whole(self) -> bool:
        """Whether the tokens of an image see each other, so that they run in one chunk."""
        return any(params.images for params in self.attention.params.values())

    @property
    def needs_proof(self) -> bool:
        """Whether the model may keep what nobody has seen: `check_continuation` finds out."""
        is_unseen = self.states is not None or self.has_silent_layers or self.index is not None
        return is_unseen and not self.is_known

    @property
    def vocab_size(self) -> int:
        return self.logits.shape[-1]


def probe_known(checkpoint: Checkpoint, model: Any, text_config: Any) -> Probe:
    """Return what the layers of a model with `PROBE_NAME` ask for, without a look at its weights.

    It must count positions from zero. Raises ModelLoadError.
    """
    with refusing(checkpoint.path):
        keep_latents(model, proven=True)
        probe = _run(model, text_config, weightless=True)
        _check_windows(probe, text_config)
    return replace(probe, is_known=True)


def probe_model(checkpoint: Checkpoint, model: Any, text_config: Any, *, latents: bool = True) -> Probe:
    """Return what the layers of a model with `PROBE_NAME` ask for, from now on also for latents.

    Raises ModelLoadError.
    """
    with refusing(checkpoint.path):
        index = find_indexers(model) if has_indexers(text_config) else None
        if index:
            model.set_attn_implementation(attention_of_text(PROBE_NAME, model.config))
        if latents:
            keep_latents(model)
        probe = _run(model, text_config)
        _check_windows(probe, text_config)
        is_number = not bool(probe.logits.isnan().any())
        if is_number:
            probe = _counting(model, text_config, probe)
            probe = _told(model, text_config, probe) or probe
        if index:
            probe = _with_index(probe, index)
    if not is_number:
        raise model_broken(checkpoint.path, "its weights give logits that are not numbers")
    return probe


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Turn what a model raises inside the block into a ModelLoadError, unless the device is at fault."""
    try:
        yield
    except UnsupportedAttentionError as error:
        raise model_unsupported(path, str(error)) from error
    except (torch.AcceleratorError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise model_unsupported(path, f"it does not run: {error!r}") from error


@torch.inference_mode()
def _run(
    model: Any,
    text_config: Any,
    *,
    first_position: int | None = 0,
    token_type: int | None = None,
    weightless: bool = False,
) -> Probe:
    """Return what a few tokens' way through the layers recorded.

    Positions or types of the tokens that are None are not told.
    """
    attention = AttentionProbe(attends=not weightless)
    products: AbstractContextManager[Any] = ProductsOfZeros() if weightless else nullcontext()
    states = StateProbe(model.config) if keeps_states(text_config) else None
    tokens = ordinary_tokens(model)[None]
    positions = torch.arange(_TOKENS, device=model.device)
    inputs: dict[str, Any] = {"input_ids": tokens}
    if first_position is not None:
        inputs["position_ids"] = positions[None] + first_position
    if token_type is not None:
        inputs["token_type_ids"] = torch.full_like(tokens, token_type)
    recording = attention.recording(MaskRecorder(is_told=token_type is not None))
    with use_backend(attention), recording, products, ExitStack() as watching:
        if states:
            inputs[cache_argument(model)] = states
            watching.enter_context(states.watching(model))
        out = model(**inputs, use_cache=False, logits_to_keep=positions[-1:])
    silent = [kind for kind in layer_types(text_config) if kind in SILENT_LAYERS]
    return Probe(
        attention,
        states,
        tuple(tokens[0].tolist()),
        out.logits[0, -1],
        first_position=first_position or 0,
        has_silent_layers=len(attention.layers) < text_config.num_hidden_layers - len(silent),
    )


def _with_index(probe: Probe, index: IndexProbe) -> Probe:
    for layer, dim in index.dims.items():
        probe.attention.layers[layer] = replace(probe.attention.layers[layer], index_dim=dim)
    return replace(probe, tokens=index.tokens, logits=index.logits, index=index)


def ordinary_tokens(model: Any) -> Tensor:
    """Return a few different tokens; those that mean something are the first or the last of a vocabulary."""
    count: int = model.get_input_embeddings().num_embeddings
    return (torch.arange(_TOKENS, device=model.device) + count // 2) % count


def _counting(model: Any, text_config: Any, probe: Probe) -> Probe:
    """Return the probe from the position on where the model begins when it is told none."""
    try:
        own = _run(model, text_config, first_position=None).logits
    except (torch.AcceleratorError, torch.OutOfMemoryError):
        raise
    except Exception:  # noqa: BLE001 - it must be told them, and is
        return probe
    for first in (0, 1, (getattr(text_config, "pad_token_id", None) or 0) + 1):  # the last after fairseq
        if first:
            probe = _run(model, text_config, first_position=first)
        if torch.allclose(own, probe.logits, rtol=0.0, atol=0.01 * float(own.std())):
            return probe
    raise UnsupportedAttentionError("it counts positions in a way of its own")


def _told(model: Any, text_config: Any, probe: Probe) -> Probe | None:
    """Return the probe of a model whose prompts see themselves if it is told that they are prompts."""
    if "token_type_ids" not in inspect.signature(model.forward).parameters:
        return None
    token_type = int(text_config.prefix_lm) if hasattr(text_config, "prefix_lm") else 0
    try:
        told = _run(model, text_config, first_position=probe.first_position, token_type=token_type)
    except UnsupportedAttentionError:  # types that tell images from text; of text alone it is not told
        return None
    return told if told.prompt_rule is PromptRule.WHOLE else None


def _check_windows(probe: Probe, text_config: Any) -> None:
    has_window = any(params.window for params in probe.attention.params.values())
    if "sliding_attention" in layer_types(text_config) and not has_window:
        raise UnsupportedAttentionError("its sliding layers do not tell their window")


def check_continuation(
    checkpoint: Checkpoint, decoder: DecoderModel, probe: Probe, modules: Sequence[StatefulModule]
) -> None:
    """Make the modules with states go step by step if the decoder otherwise forgets what it has read.

    Raises ModelLoadError if it comes to other logits than transformers even so.
    """
    with refusing(checkpoint.path):
        if _continues(decoder, probe):
            return
        for module in modules:
            module.is_stepwise = True
        if not _continues(decoder, probe):
            raise UnsupportedAttentionError("it comes to other results piece by piece than at once")


def _continues(decoder: DecoderModel, probe: Probe) -> bool:
    """Return whether the decoder comes to the same logits at once and piece by piece, and to the probe's.

    The probe's own attention attends to everything.
    """
    at_once = read_pieces(decoder, probe.tokens, (0, _TOKENS))
    others = [read_pieces(decoder, probe.tokens, _PIECES)]
    if probe.index or all(
        params.is_softmax and not params.is_local for params in probe.attention.params.values()
    ):
        others.append(probe.logits.float())
    return not any(differs(logits, at_once, decoder.dtype) for logits in others)


def differs(logits: Tensor, wanted: Tensor, dtype: torch.dtype) -> bool:
    """Return whether logits, (vocab,), are further from others than rounding brings them."""
    allowed = _TOLERANCES[dtype] * float(wanted.std())
    return not float((logits - wanted).square().mean().sqrt()) <= allowed


@torch.inference_mode()
def read_pieces(
    decoder: DecoderModel, tokens: Sequence[int], ends: Sequence[int], images: tuple[PromptImage, ...] = ()
) -> Tensor:
    """Return the logits after a prompt, (vocab,), that is read in pieces which end at `ends`."""
    device, count = decoder.device, len(tokens)
    shape = CacheShape(num_pages=1, page_size=count, num_slots=1, context=count)
    cache = KVCache(decoder.layers, shape, dtype=decoder.dtype, device=device)
    states = StatePool(decoder.states, shape, device)
    table = PageTable(shape, device)
    encoder = decoder.vision_encoder if images else None
    embedder, places = (
        (ImageEmbedder(encoder, device), ImagePositions(encoder, 1, device)) if encoder else (None, None)
    )
    joined: tuple[Joined, ...] = (Joined(0, Sampling(), tuple(tokens), (), (0,), images=images),)
    for start, end in pairwise(ends):
        shown = tuple(image for image in images if image.start < end and image.end > start)
        plan = StepPlan((Chunk(0, tuple(tokens[start:end]), start, images=shown),), joined)
        table.update(plan)
        batch = Batch(plan, table, shape)
        if places and joined:
            places.join(*joined)
        joined = ()
        embeddings: ImageEmbeddings = ()
        if embedder:
            encoded = embedder.encode(Encoding(0, shown))
            if encoded and encoded.failure:
                raise ValueError(encoded.failure)
            embeddings = embedder.embed(plan, batch)
        positions = places.of(plan, batch) if places else batch.positions
        last = torch.tensor([end - start - 1], device=device)
        with (
            use_backend(SdpaAttention(cache, batch)),
            use_sequences(StepSequences(cache, batch)),
            use_index_keys(cache, batch),
            use_state_groups(group_states(states, plan, batch)),
        ):
            logits = decoder(batch.tokens, positions, last, embeddings)
    return logits[0]


_IMAGE = range(5, 11)  # tokens of the probe that stand for an image


@torch.inference_mode()
def read_images_alike(model: Any, probe: Probe, image_token_id: int) -> Probe:
    """Return the probe of a text that shows an image, for which no pixels are needed.

    Raises UnsupportedAttentionError.
    """
    taken = inspect.signature(model.forward).parameters
    names = [name for name in taken if name.endswith("token_type_ids")]
    if not names:
        return probe
    attention = AttentionProbe()
    tokens = torch.tensor([probe.tokens], device=model.device)
    types = torch.zeros_like(tokens)
    tokens[0, list(_IMAGE)] = image_token_id
    types[0, list(_IMAGE)] = 1
    positions = torch.arange(_TOKENS, device=model.device)[None] + probe.first_position
    masks = ImageMaskRecorder(probe.attention.spans, _IMAGE)
    states = StateProbe(model.config) if probe.states else None
    kept = {cache_argument(model): states} if states else {}
    with use_backend(attention), attention.recording(masks), ExitStack() as watching:
        if states:
            watching.enter_context(states.watching(model))
        told = dict.fromkeys(names, types) | kept
        model(input_ids=tokens, position_ids=positions, use_cache=False, **told)
    images = {name for name, params in attention.params.items() if params.images}
    attention.params = {
        name: replace(params, images=name in images) for name, params in probe.attention.params.items()
    }
    attention.layers = probe.attention.layers
    return replace(probe, attention=attention)
