"""From a checkpoint to a decoder on the device."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from neuron.device.model import ImageEmbeddings, VisionEncoder
from neuron.device.state_pool import StateName, StateShape
from neuron.models.architecture import (
    TESTED_VISION_FAMILIES,
    check_context,
    context_length,
    decoder_class,
    read_config,
    uses_attention_interface,
)
from neuron.models.attention_interface import ATTENTION_NAME, INDEXED_NAME, PROBE_NAME, use_spans
from neuron.models.cached_decoder import CachedDecoder, load_cached
from neuron.models.checkpoint import Checkpoint, ModelLoadError
from neuron.models.fused.decoder import FusedDecoder, fuse_decoder, insert_image_embeddings
from neuron.models.image_input import ImageProcessor
from neuron.models.index_cache import IndexedStates
from neuron.models.indexer_interface import check_index
from neuron.models.mended_layers import mend_layers
from neuron.models.probe import Probe, check_continuation, probe_model
from neuron.models.recomputing_decoder import RecomputingDecoder, load_recomputing
from neuron.models.recurrent_decoder import RecurrentDecoder, load_recurrent, state_argument
from neuron.models.routing import check_routing
from neuron.models.state_interface import StatefulModule, cache_argument, outermost
from neuron.models.weights import LoadOptions, load_weights

log = logging.getLogger("neuron.models")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_STORED_DTYPES = {"F64": "float32", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class TransformersDecoder:
    """A `neuron.device.model.DecoderModel` that runs transformers' own code."""

    is_capturable = False  # experts are chosen and masks made on the way

    def __init__(self, model: Any, probe: Probe, *, context: int) -> None:
        self._model = model
        self._spans = probe.attention.spans
        self.layers = probe.attention.layers
        self.prompt_rule = probe.prompt_rule
        self._first_position = probe.first_position
        self.states: Mapping[StateName, StateShape] = probe.states.shapes if probe.states else {}
        self._cache_argument = cache_argument(model) if probe.states or probe.index else None
        self._index = probe.index
        self.vocab_size = probe.vocab_size
        self.context = context - probe.first_position  # tokens that the model was made for
        self.num_embeddings: int = model.get_input_embeddings().num_embeddings
        self.dtype: torch.dtype = model.dtype
        self.device: torch.device = model.device
        self.vision_encoder: VisionEncoder | None = None
        self.image_processor: ImageProcessor | None = None
        self._kept: Tensor | None = None  # rows whose logits are wanted, of a model that is not told
        head = model.get_output_embeddings()
        if head and "logits_to_keep" not in inspect.signature(model.forward).parameters:
            head.register_forward_pre_hook(self._keep)

    def _keep(self, _: object, hidden: tuple[Tensor]) -> tuple[Tensor]:
        return (hidden[0][:, self._kept],)

    def __call__(
        self,
        tokens: Tensor,
        positions: Tensor,
        logits_indices: Tensor,
        image_embeddings: ImageEmbeddings = (),
    ) -> Tensor:
        inputs: dict[str, Any] = {"input_ids": tokens[None]}
        if image_embeddings:
            embedded = self._model.get_input_embeddings()(tokens)
            inputs = {"inputs_embeds": insert_image_embeddings(embedded, image_embeddings)[None]}
        if self._cache_argument:
            cache = IndexedStates(self._index)
            inputs[self._cache_argument] = cache
            if self._index and self._index.compressions:
                inputs["attention_mask"] = {"": cache.compressed}  # passed on to the attention of each layer
        self._kept = logits_indices
        with use_spans(self._spans):
            out = self._model(
                **inputs,
                position_ids=positions[None] + self._first_position,
                use_cache=False,
                logits_to_keep=logits_indices,
            )
        logits: Tensor = out.logits[0]
        return (logits if len(logits) == len(logits_indices) else logits[logits_indices]).float()


AnyDecoder = TransformersDecoder | FusedDecoder | CachedDecoder | RecurrentDecoder | RecomputingDecoder


def model_dtype(checkpoint: Checkpoint, configured: str | None = None) -> torch.dtype:
    """Return the dtype to compute in: the configured one, else `config.json`'s, else the weights' own."""
    named = configured or checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype")
    name = str(named).removeprefix("torch.")
    if named is None or named == "auto":
        name = _STORED_DTYPES[checkpoint.dtype]
    if name not in DTYPES:
        cause = f"dtype {named!r} is not one of {', '.join(DTYPES)}"
        raise ModelLoadError("model_unsupported", f"{checkpoint.config_file}: {cause}")
    return DTYPES[name]


def load_decoder(
    checkpoint: Checkpoint, options: LoadOptions, *, fused: bool = True, latents: bool = True
) -> AnyDecoder:
    """Return the decoder of a checkpoint, loaded and probed. Raises ModelLoadError.

    Unless `fused`, transformers' own code runs the model, whatever its shape. Unless `latents`, it caches the
    keys and values of every head, too, in place of what they are made of.
    """
    config = read_config(checkpoint)
    text_config = config.get_text_config(decoder=True)
    check_routing(checkpoint.config_file, text_config)
    check_context(checkpoint.config_file, text_config)
    has_vision = options.images and config.model_type in TESTED_VISION_FAMILIES
    options = replace(options, images=has_vision)
    cls = decoder_class(checkpoint, config)
    options.on_progress(0.0)  # transformers has just imported the class
    if not uses_attention_interface(cls, text_config):
        model = load_weights(checkpoint, config, cls, options, attention=None)
        return _load_older(checkpoint, model, text_config)
    check_index(checkpoint, text_config)
    model = load_weights(checkpoint, config, cls, options, attention=_attention(PROBE_NAME, config))
    try:
        return _load_interfaced(checkpoint, model, text_config, options, fused=fused, latents=latents)
    except ModelLoadError as error:
        if error.code != "model_unsupported" or has_vision:
            raise
        refused = ModelLoadError(error.code, error.message)  # whose frames do not hold the model
    del model  # which has been changed for our attention
    model = load_weights(checkpoint, config, cls, options, attention="eager")
    try:
        return load_cached(checkpoint, model, text_config)
    except ModelLoadError:
        raise refused from None


def _load_older(checkpoint: Checkpoint, model: Any, text_config: Any) -> AnyDecoder:
    """Return the decoder of a class that knows nothing of the attention interface."""
    try:
        if argument := state_argument(model):
            return load_recurrent(checkpoint, model, text_config, argument)
        return load_cached(checkpoint, model, text_config)
    except ModelLoadError as refused:
        if refused.code != "model_unsupported":
            raise
        cause = refused.message
    decoder = load_recomputing(checkpoint, model, text_config)
    log.warning("the whole text is read anew for each token", extra={"cause": cause})
    return decoder


def _load_interfaced(
    checkpoint: Checkpoint,
    model: Any,
    text_config: Any,
    options: LoadOptions,
    *,
    fused: bool,
    latents: bool,
) -> AnyDecoder:
    """Return the decoder of a model whose layers leave their attention to us."""
    mend_layers(model, text_config)
    options.on_progress(1.0)
    probe = probe_model(checkpoint, model, text_config, latents=latents)
    options.on_progress(1.0)
    name = INDEXED_NAME if probe.index else ATTENTION_NAME
    model.set_attn_implementation(_attention(name, model.config))
    context = context_length(text_config)
    vision = None
    if options.images:
        # Imported here because it takes a second and needs an image library.
        from neuron.models.vision import load_vision  # noqa: PLC0415

        vision = load_vision(model, checkpoint.path, options.max_image_pixels)
    decoder: AnyDecoder | None = None
    if fused and latents:
        decoder = fuse_decoder(model, text_config, probe, context=context)
    if decoder is None:
        decoder = TransformersDecoder(model, probe, context=context)
    options.on_progress(1.0)
    if probe.needs_proof:
        keeping = probe.states.modules if probe.states and not isinstance(decoder, FusedDecoder) else ()
        check_continuation(checkpoint, decoder, probe, [*map(StatefulModule, outermost(keeping))])
    if vision:
        decoder.image_processor, decoder.vision_encoder = vision
    return decoder


def _attention(name: str, config: Any) -> str | dict[str, str]:
    """Return the attention of each part of a model: `name` for its text, elsewhere transformers' choice."""
    return {"": name, "text_config": name} if "text_config" in config.sub_configs else name
