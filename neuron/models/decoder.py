"""From a checkpoint to a decoder on the device.

A model that would run wrongly is refused here: a short probe through every layer records what the layers ask
of their attention.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from neuron.device.attention import use_backend
from neuron.device.model import ImageEmbeddings, VisionEncoder
from neuron.models.architecture import (
    TESTED_VISION_FAMILIES,
    context_length,
    decoder_class,
    model_unsupported,
    read_config,
)
from neuron.models.attention_interface import (
    ATTENTION_NAME,
    PROBE_NAME,
    AttentionProbe,
    UnsupportedAttentionError,
    use_spans,
)
from neuron.models.checkpoint import CONFIG, Checkpoint, ModelLoadError, model_broken
from neuron.models.fused_decoder import FusedDecoder, fuse_decoder, insert_image_embeddings
from neuron.models.image_input import ImageProcessor
from neuron.models.weights import LoadOptions, load_weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_STORED_DTYPES = {"F64": "float32", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}

_PROBE_TOKENS = 4


class TransformersDecoder:
    """A `neuron.device.model.DecoderModel` that runs transformers' own code."""

    is_capturable = False  # experts are chosen and masks made on the way

    def __init__(self, model: Any, probe: AttentionProbe, *, vocab_size: int, context: int) -> None:
        self._model = model
        self._spans = probe.spans
        self.layers = probe.layers
        self.vocab_size = vocab_size
        self.context = context  # tokens that the model was made for
        self.num_embeddings: int = model.get_input_embeddings().num_embeddings
        self.dtype: torch.dtype = model.dtype
        self.device: torch.device = model.device
        self.vision_encoder: VisionEncoder | None = None
        self.image_processor: ImageProcessor | None = None

    def __call__(
        self,
        tokens: Tensor,
        positions: Tensor,
        logits_indices: Tensor,
        image_embeddings: ImageEmbeddings = (),
    ) -> Tensor:
        inputs: dict[str, Tensor] = {"input_ids": tokens[None]}
        if image_embeddings:
            embedded = self._model.get_input_embeddings()(tokens)
            inputs = {"inputs_embeds": insert_image_embeddings(embedded, image_embeddings)[None]}
        with use_spans(self._spans):
            out = self._model(
                **inputs, position_ids=positions[None], use_cache=False, logits_to_keep=logits_indices
            )
        logits: Tensor = out.logits[0]
        return logits.float()


AnyDecoder = TransformersDecoder | FusedDecoder


def model_dtype(checkpoint: Checkpoint, configured: str | None = None) -> torch.dtype:
    """Return the dtype to compute in: the configured one, else `config.json`'s, else the weights' own."""
    named = configured or checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype")
    name = str(named).removeprefix("torch.")
    if named in {None, "auto"}:
        name = _STORED_DTYPES[checkpoint.dtype]
    if name not in DTYPES:
        cause = f"dtype {named!r} is not one of {', '.join(DTYPES)}"
        raise ModelLoadError("model_unsupported", f"{checkpoint.path / CONFIG}: {cause}")
    return DTYPES[name]


def load_decoder(checkpoint: Checkpoint, options: LoadOptions, *, fused: bool = True) -> AnyDecoder:
    """Return the decoder of a checkpoint, loaded and probed. Raises ModelLoadError.

    Unless `fused`, transformers' own code runs the model, whatever its shape.
    """
    config = read_config(checkpoint)
    text_config = config.get_text_config(decoder=True)
    has_vision = options.images and config.model_type in TESTED_VISION_FAMILIES
    cls = decoder_class(checkpoint, config)
    attention = _attention(PROBE_NAME, has_vision=has_vision)
    model = load_weights(checkpoint, config, cls, options, attention=attention)
    probe, vocab_size = _probe(checkpoint, model, text_config)
    model.set_attn_implementation(_attention(ATTENTION_NAME, has_vision=has_vision))
    context = context_length(text_config)
    vision = None
    if has_vision:
        # Imported here because it takes a second and needs an image library.
        from neuron.models.vision import load_vision  # noqa: PLC0415

        vision = load_vision(model, checkpoint.path)
    decoder: AnyDecoder | None = None
    if fused:
        decoder = fuse_decoder(model, text_config, probe, vocab_size=vocab_size, context=context)
    if decoder is None:
        decoder = TransformersDecoder(model, probe, vocab_size=vocab_size, context=context)
    if vision:
        decoder.image_processor, decoder.vision_encoder = vision
    return decoder


def _attention(name: str, *, has_vision: bool) -> str | dict[str, str]:
    """Return the attention of each part of a model: `name` for its text."""
    return {"": name, "text_config": name, "vision_config": "sdpa"} if has_vision else name


def _probe(checkpoint: Checkpoint, model: Any, text_config: Any) -> tuple[AttentionProbe, int]:
    """Return what the model's layers ask for, and its vocabulary size. Raises ModelLoadError."""
    try:
        probe, logits = _run_probe(model)
        _check_probe(probe, text_config)
        is_number = not bool(logits.isnan().any())
        if is_number:
            _check_positions(model, logits)
    except UnsupportedAttentionError as error:
        raise model_unsupported(checkpoint.path, str(error)) from error
    except (torch.AcceleratorError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise model_unsupported(checkpoint.path, f"it does not run: {error!r}") from error
    if not is_number:
        raise model_broken(checkpoint.path, "its weights give logits that are not numbers")
    return probe, logits.shape[-1]


@torch.inference_mode()
def _run_probe(model: Any, *, with_positions: bool = True) -> tuple[AttentionProbe, Tensor]:
    """Return what a few tokens' way through the layers recorded, and the logits after the last."""
    probe = AttentionProbe()
    zeros = torch.zeros(1, _PROBE_TOKENS, dtype=torch.int64, device=model.device)
    positions = torch.arange(_PROBE_TOKENS, device=model.device)
    is_padding = model.config.get_text_config(decoder=True).pad_token_id == 0
    inputs = {"input_ids": zeros + 1 if is_padding else zeros}
    if with_positions:
        inputs["position_ids"] = positions[None]
    if "token_type_ids" in inspect.signature(model.forward).parameters:
        inputs["token_type_ids"] = zeros  # a prompt of text, which some let attend to itself as a whole
    with use_backend(probe), probe.recording():
        out = model(**inputs, use_cache=False, logits_to_keep=positions[-1:])
    return probe, out.logits


def _check_positions(model: Any, logits: Tensor) -> None:
    """Refuse a model that counts otherwise than from 0 when it is told no positions."""
    try:
        _, own = _run_probe(model, with_positions=False)
    except (torch.AcceleratorError, torch.OutOfMemoryError):
        raise
    except Exception:  # noqa: BLE001 - it must be told them, and is
        return
    if not torch.allclose(own, logits, rtol=0.0, atol=0.01 * float(logits.std())):
        raise UnsupportedAttentionError("its positions do not count from 0")


def _check_probe(probe: AttentionProbe, text_config: Any) -> None:
    num_others = text_config.num_hidden_layers - len(probe.layers)
    if num_others:
        raise UnsupportedAttentionError(f"{num_others} of its layers do not attend")
    slides = "sliding_attention" in (getattr(text_config, "layer_types", None) or ())
    if slides and not any(params.window for params in probe.params.values()):
        raise UnsupportedAttentionError("its sliding layers do not tell their window")
