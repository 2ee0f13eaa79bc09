"""From a checkpoint to a decoder on the device."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from neuron.device.model import ImageEmbeddings, VisionEncoder
from neuron.device.state_pool import StateName, StateShape
from neuron.models.adapters.adapted_modules import adapt_modules
from neuron.models.adapters.bank import AdapterBank
from neuron.models.architecture import (
    check_context,
    context_length,
    decoder_class,
    read_config,
    uses_attention_interface,
)
from neuron.models.attention_interface import (
    ATTENTION_NAME,
    INDEXED_NAME,
    PROBE_NAME,
    attention_of_text,
    use_spans,
)
from neuron.models.cached_decoder import CachedDecoder, load_cached
from neuron.models.checkpoint import PROCESSOR_FILES, Checkpoint, ModelLoadError
from neuron.models.fused.decoder import FusedDecoder, find_family, fuse_decoder
from neuron.models.fused.multi_token_head import HeadWeights
from neuron.models.image_input import ImageProcessor
from neuron.models.index_cache import IndexedStates
from neuron.models.indexer_interface import check_index
from neuron.models.mended_layers import mend_layers
from neuron.models.probe import Probe, check_continuation, probe_known, probe_model
from neuron.models.recomputing_decoder import RecomputingDecoder, load_recomputing
from neuron.models.recurrent_decoder import RecurrentDecoder, load_recurrent, state_argument
from neuron.models.repeated_layers import load_repeated
from neuron.models.routing import check_routing
from neuron.models.state_interface import StatefulModule, cache_argument, outermost
from neuron.models.tensor_parallel.checkpoint import RankPart, not_split
from neuron.models.tensor_parallel.rank import RankDecoder, add_up, join_norms, take_head
from neuron.models.tensor_parallel.spread import class_with_channels, class_with_experts, whole_class
from neuron.models.tensor_parallel.structure import joined_norms, summed_modules, whole_model
from neuron.models.vision import VisionTower
from neuron.models.weights import LoadOptions, load_weights, read_entries

if TYPE_CHECKING:
    from neuron.models.sight import PreparingProcessor, Sight

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
        self.runs_rows_alone = not (probe.states or probe.index)
        # Layers with states run group by group, and see no flat batch.
        is_flat = not (probe.states or probe.index)
        self.adapters: AdapterBank | None = adapt_modules(model) if is_flat else None
        self.vocab_size = probe.vocab_size
        self.context = context - probe.first_position  # tokens that the model was made for
        self.num_embeddings: int = model.get_input_embeddings().num_embeddings
        self.dtype: torch.dtype = model.dtype
        self.device: torch.device = model.device
        self.vision_encoder: VisionEncoder | None = None
        self.image_processor: ImageProcessor | None = None
        self.whole_images = probe.sees_images_whole
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
        if image_embeddings and isinstance(self.vision_encoder, VisionTower):
            inputs = self.vision_encoder.step_inputs(tokens, image_embeddings)
        if self._cache_argument:
            cache = IndexedStates(self._index)
            inputs[self._cache_argument] = cache
            if self._index and self._index.compressions:
                inputs["attention_mask"] = {"": cache.compressed}  # passed on to the attention of each layer
        self._kept = logits_indices
        with use_spans(self._spans):
            out = self._model(
                **inputs,
                position_ids=positions.unsqueeze(-2) + self._first_position,
                use_cache=False,
                logits_to_keep=logits_indices,
            )
        logits: Tensor = out.logits[0]
        return (logits if len(logits) == len(logits_indices) else logits[logits_indices]).float()


AnyDecoder = (
    TransformersDecoder | FusedDecoder | RankDecoder | CachedDecoder | RecurrentDecoder | RecomputingDecoder
)


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
    checkpoint: Checkpoint,
    options: LoadOptions,
    *,
    fused: bool = True,
    latents: bool = True,
    processor: PreparingProcessor | None = None,
) -> AnyDecoder:
    """Return the decoder of a checkpoint, loaded and probed. Raises ModelLoadError.

    Unless `fused`, transformers' own code runs the model, whatever its shape. Unless `latents`, it caches the
    keys and values of every head, too, in place of what they are made of. A `processor` of images takes the
    place of the directory's own.
    """
    config = read_config(checkpoint)
    text_config = config.get_text_config(decoder=True)
    check_routing(checkpoint.config_file, text_config)
    check_context(checkpoint.config_file, text_config)
    images = options.images and (processor is not None or has_image_files(checkpoint.path))
    options = replace(options, images=images)
    cls = decoder_class(checkpoint, config, images=images)
    options.on_progress(0.0)  # transformers has just imported the class
    if options.part:
        return _load_part(checkpoint, config, cls, options, options.part, fused=fused)
    if not uses_attention_interface(cls, text_config):
        model = load_weights(checkpoint, config, cls, options, attention=None)
        return _load_older(checkpoint, model, text_config)
    check_index(checkpoint, text_config)
    family = find_family(config) if fused and latents and not images else None
    if family and (decoder := load_repeated(checkpoint, config, cls, family, options)):
        return decoder
    model = load_weights(checkpoint, config, cls, options, attention=attention_of_text(PROBE_NAME, config))
    try:
        sight = _find_sight(checkpoint, model, options, processor) if images else None
        return _load_interfaced(
            checkpoint, model, text_config, options, sight=sight, fused=fused, latents=latents
        )
    except ModelLoadError as error:
        if error.code != "model_unsupported":
            raise
        refused = ModelLoadError(error.code, error.message)  # whose frames do not hold the model
    del model  # which has been changed for our attention
    model = load_weights(checkpoint, config, cls, options, attention="eager")
    try:
        return load_cached(checkpoint, model, text_config)
    except ModelLoadError:
        raise refused from None


def _load_part(
    checkpoint: Checkpoint, config: Any, cls: Any, options: LoadOptions, part: RankPart, *, fused: bool
) -> AnyDecoder:
    """Return the decoder of one rank's part, which reads and writes text alone."""
    text_config = config.get_text_config(decoder=True)
    if not uses_attention_interface(cls, text_config):
        cause = f"{cls.__name__} attends in a way of its own, which is not split over devices"
        raise ModelLoadError("model_unsupported", f"{checkpoint.config_file}: {cause}")
    check_index(checkpoint, text_config)
    options = replace(options, images=False)
    if part.experts is not None:
        cls = class_with_experts(cls, part.experts)
    if part.channels is not None:
        cls = class_with_channels(cls, part.channels)
    try:
        model = load_weights(
            checkpoint, config, cls, options, attention=attention_of_text(PROBE_NAME, config)
        )
        return _load_interfaced(
            checkpoint, model, text_config, options, sight=None, fused=fused, latents=True
        )
    except ModelLoadError as error:
        raise not_split(error, part) from error


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


def _load_interfaced(  # noqa: PLR0913
    checkpoint: Checkpoint,
    model: Any,
    text_config: Any,
    options: LoadOptions,
    *,
    sight: Sight | None,
    fused: bool,
    latents: bool,
) -> AnyDecoder:
    """Return the decoder of a model whose layers leave their attention to us."""
    mend_layers(model, text_config)
    options.on_progress(1.0)
    family = find_family(model.config) if fused and latents else None
    if options.part and options.part.experts is not None and not family:
        cause = "its experts are too narrow to be split, and spread by our own decoder alone"
        raise ModelLoadError("model_unsupported", f"{checkpoint.config_file}: {cause}; use fewer devices")
    if family:
        probe = probe_known(checkpoint, model, text_config)
    else:
        probe = probe_model(checkpoint, model, text_config, latents=latents)
    if sight:
        sight, probe = _probe_images(checkpoint, model, sight, probe)
    options.on_progress(1.0)
    name = INDEXED_NAME if probe.index else ATTENTION_NAME
    model.set_attn_implementation(attention_of_text(name, model.config))
    context = context_length(text_config)
    split: set[Any] = set()
    part = options.part
    if part:
        whole = whole_model(whole_class(type(model)), read_config(part.whole))
        split = summed_modules(model, whole, str(checkpoint.config_file))
        join_norms(joined_norms(model, whole))
        whole_vocab = probe.vocab_size
        probe = replace(probe, logits=probe.logits[take_head(model, part.rank)])
    decoder: AnyDecoder
    if family:
        head = HeadWeights(*read_entries(checkpoint.head.own, options)) if checkpoint.head else None
        decoder = fuse_decoder(model, family, text_config, probe, context=context, split=split, head=head)
    else:
        decoder = TransformersDecoder(model, probe, context=context)
        add_up(split)
    options.on_progress(1.0)
    if probe.needs_proof:
        keeping = probe.states.modules if probe.states and not isinstance(decoder, FusedDecoder) else ()
        check_continuation(checkpoint, decoder, probe, [*map(StatefulModule, outermost(keeping))])
    if sight:
        _give_sight(checkpoint, decoder, sight, probe)
    return RankDecoder(decoder, part, whole_vocab) if part else decoder


def has_image_files(path: Path) -> bool:
    """Return whether a directory says how images are to be processed."""
    return any((path / name).is_file() for name in PROCESSOR_FILES)


def _find_sight(
    checkpoint: Checkpoint, model: Any, options: LoadOptions, processor: PreparingProcessor | None
) -> Sight | None:
    """Return the sight of a model whose class sees, and leave it with the attention that it came with."""
    # Imported here because it takes a second and needs an image library.
    from neuron.models.sight import find_sight  # noqa: PLC0415

    model.set_attn_implementation(attention_of_text("eager", model.config))
    try:
        return find_sight(checkpoint, model, options, processor)
    except ModelLoadError as error:
        if error.code != "model_unsupported":
            raise
        _warn_unseeing(checkpoint, error.message)
    except (torch.AcceleratorError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever the class makes of it
        _warn_unseeing(checkpoint, repr(error))
    finally:
        model.set_attn_implementation(attention_of_text(PROBE_NAME, model.config))
    return None


def _probe_images(
    checkpoint: Checkpoint, model: Any, sight: Sight, probe: Probe
) -> tuple[Sight | None, Probe]:
    """Return the probe of a model that sees; without its sight if images want another attention than ours."""
    try:
        return sight, sight.probed(model, probe)
    except (torch.AcceleratorError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever the class makes of it
        _warn_unseeing(checkpoint, str(error) or repr(error))
    return None, probe


def _give_sight(checkpoint: Checkpoint, decoder: AnyDecoder, sight: Sight, probe: Probe) -> None:
    """Let a decoder see if it comes to transformers' results with an image."""
    decoder.vision_encoder = sight.tower
    try:
        sight.check(decoder, probe)
    except (torch.AcceleratorError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever the class makes of it
        decoder.vision_encoder = None
        _warn_unseeing(checkpoint, str(error) or repr(error))
    else:
        decoder.image_processor = sight.processor


def _warn_unseeing(checkpoint: Checkpoint, cause: str) -> None:
    first = cause.strip().partition("\n")[0].removeprefix(f"{checkpoint.path}: ")
    log.warning(f"{checkpoint.path}: images are off, it reads and writes text: {first}")  # noqa: G004
