"""From a checkpoint on disk to a decoder on the device.

The class and the renaming of weights are transformers'; the bytes are read by us, one tensor at a time
straight to the device, so that weights are never held twice and whoever waits sees how far it is. A model we
would run wrongly is refused here: a short probe through every layer tells what it needs of its attention.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)

from neuron.device.attention import use_backend
from neuron.device.kv_cache import KVShape
from neuron.models.attention_interface import ATTENTION_NAME, AttentionProbe, UnsupportedAttentionError
from neuron.models.checkpoint import CONFIG, Checkpoint, ModelLoadError, model_broken
from neuron.models.fused_decoder import FusedDecoder, ImageEmbeddings, fuse, insert_image_embeddings

if TYPE_CHECKING:
    from neuron.models.image_processor import ImageProcessor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_STORED_DTYPES = {"F64": "float32", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}

# Held token for token to what transformers generates by tests/device/test_parity.py.
TESTED_FAMILIES = (
    "gemma2",
    "gemma3_text",
    "gpt_oss",
    "llama",
    "mistral",
    "olmo",
    "olmo2",
    "olmo3",
    "phi3",
    "qwen2",
    "qwen3",
    "qwen3_moe",
)

# The same with images, by tests/device/test_vision.py. Others that see place their tokens in more than one
# dimension, let an image's tokens see those after them, or need torchvision; they run, if at all, without.
TESTED_VISION_FAMILIES = ("idefics3", "llava")

_RUNNABLE_LAYERS = {"full_attention", "sliding_attention"}
_PROBE_TOKENS = 4
_DEFAULT_CONTEXT = 4096  # for a model that names no bound

OnProgress = Callable[[float], None]


class TransformersDecoder:
    """A loaded model: a `neuron.device.model_runner.Forward` that knows its own limits."""

    is_capturable = False  # experts are chosen on the way, masks made

    def __init__(
        self,
        model: Any,
        layers: dict[int, KVShape],
        vocab_size: int,
        context: int,
        vision_encoder: ImageProcessor | None,
    ) -> None:
        self._model = model
        self.vision_encoder = vision_encoder
        self.layers = layers
        self.vocab_size = vocab_size
        self.context = context  # positions the model was made for
        self.num_embeddings: int = model.get_input_embeddings().num_embeddings
        self.dtype: torch.dtype = model.dtype
        self.device: torch.device = model.device

    def __call__(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        logits_indices: torch.Tensor,
        image_embeddings: ImageEmbeddings = (),
    ) -> torch.Tensor:
        read: dict[str, torch.Tensor] = {"input_ids": tokens[None]}
        if image_embeddings:
            read = {
                "inputs_embeds": insert_image_embeddings(
                    self._model.get_input_embeddings()(tokens), image_embeddings
                )[None]
            }
        out = self._model(
            **read, position_ids=positions[None], use_cache=False, logits_to_keep=logits_indices
        )
        logits: torch.Tensor = out.logits[0]
        return logits.float()


AnyDecoder = TransformersDecoder | FusedDecoder


def model_dtype(checkpoint: Checkpoint, configured: str | None = None) -> torch.dtype:
    """The type to compute in: the configured one, else the configuration file's, else the weights' own."""
    named = configured or checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype")
    name = _STORED_DTYPES[checkpoint.dtype] if named in {None, "auto"} else str(named).removeprefix("torch.")
    if name not in DTYPES:
        cause = f"dtype {named!r} is not one of {', '.join(DTYPES)}"
        raise ModelLoadError("model_unsupported", f"{checkpoint.path / CONFIG}: {cause}")
    return DTYPES[name]


def load_decoder(
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype,
    device: torch.device,
    on_progress: OnProgress,
    fused: bool = True,
) -> AnyDecoder:
    """Load and probe. Raises LoadError; `on_progress` gets the share of bytes read, after every tensor.
    Without `fused` transformers' own code runs the model, whatever its shape."""
    config = _read_config(checkpoint)
    text = config.get_text_config(decoder=True)
    sees = config.model_type in TESTED_VISION_FAMILIES
    model = build(
        checkpoint,
        config,
        _model_class(config),
        attention={"": ATTENTION_NAME, "text_config": ATTENTION_NAME, "vision_config": "sdpa"}
        if sees
        else ATTENTION_NAME,
        dtype=dtype,
        device=device,
        on_progress=on_progress,
    )
    model.eval().requires_grad_(requires_grad=False)
    try:
        probe, logits = _probe(model, text)
    except UnsupportedAttentionError as error:
        raise model_unsupported(checkpoint.path, str(error)) from error
    except Exception as error:
        raise model_unsupported(checkpoint.path, f"it does not run: {error!r}") from error
    if bool(logits.isnan().any()):
        raise model_broken(checkpoint.path, "its weights give logits that are not numbers")
    vocab_size, context, vision_encoder = logits.shape[-1], context_of(text), None
    if sees:
        from neuron.models.image_processor import ImageProcessor  # noqa: PLC0415 - it takes a second

        vision_encoder = ImageProcessor(model, checkpoint.path)
    if fused and (decoder := fuse(model, text, probe, vocab_size=vocab_size, context=context)):
        decoder.vision_encoder = vision_encoder
        return decoder
    return TransformersDecoder(model, probe.layers, vocab_size, context, vision_encoder)


def model_unsupported(path: Path, cause: str) -> ModelLoadError:
    known = (
        f"decoders that use transformers' attention interface run, tested are {', '.join(TESTED_FAMILIES)}; "
    )
    known += f"with images {', '.join(TESTED_VISION_FAMILIES)}"
    return ModelLoadError("model_unsupported", f"{path}: {cause}; {known}")


def _read_config(checkpoint: Checkpoint) -> Any:
    """transformers' configuration object, of a model that looks as if it runs."""
    file, model_type = checkpoint.path / CONFIG, checkpoint.config.get("model_type")
    if model_type not in CONFIG_MAPPING:
        raise model_unsupported(
            file, f"model_type {model_type!r} is unknown to transformers {transformers.__version__}"
        )
    try:
        config = CONFIG_MAPPING[model_type].from_dict(checkpoint.config)
    except Exception as error:
        raise model_broken(file, f"is no configuration of {model_type}: {error}") from error
    if type(config) not in _classes(config) or config.is_encoder_decoder:
        raise model_unsupported(file, f"{model_type} is not a decoder")
    kinds = set(getattr(config.get_text_config(decoder=True), "layer_types", None) or ())
    if strange := sorted(kinds - _RUNNABLE_LAYERS):
        raise model_unsupported(file, f"{model_type} has layers of type {', '.join(strange)}")
    if not getattr(_model_class(config), "_supports_attention_backend", False):
        raise model_unsupported(file, f"{model_type} does not use the attention interface")
    return config


def _model_class(config: Any) -> Any:
    known = _classes(config)[type(config)]
    return known[0] if isinstance(known, tuple) else known


def _classes(config: Any) -> Any:
    sees = config.model_type in TESTED_VISION_FAMILIES
    return MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING if sees else MODEL_FOR_CAUSAL_LM_MAPPING


def build(  # noqa: PLR0913
    checkpoint: Checkpoint,
    config: Any,
    model_class: Any,
    *,
    attention: str | dict[str, str],
    dtype: torch.dtype,
    device: torch.device,
    on_progress: OnProgress,
) -> Any:
    """transformers' model with the checkpoint's weights on `device`. Raises LoadError."""
    # Otherwise threads of transformers' own would read, and call `on_progress`.
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
    with _quiet(), ExitStack() as files:
        reader = _Reader(checkpoint, files, device, on_progress)
        try:
            model, info = model_class.from_pretrained(
                None,
                config=config,
                state_dict={name: _Stored(reader, name) for name in checkpoint.tensors},
                dtype=dtype,
                attn_implementation=attention,
                ignore_mismatched_sizes=True,  # reported below, with the file
                output_loading_info=True,
            )
        except Exception as error:
            raise reader.failure or model_broken(checkpoint.path, f"cannot be loaded: {error}") from error
    for name, stored, wanted in sorted(info["mismatched_keys"]):
        cause = f"{name} has shape {list(stored)} instead of {list(wanted)}"
        raise model_broken(
            checkpoint.tensors[name].file if name in checkpoint.tensors else checkpoint.path, cause
        )
    if missing := sorted(name for name in info["missing_keys"] if not name.startswith("pooler.")):
        raise model_broken(checkpoint.path, f"lacks {missing[0]} ({len(missing)} such tensors)")
    return model.to(device)


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers reports problems as tables and bars on stderr; we raise them."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)


class _Reader:
    """Reads tensors as they are asked for and says how far that is."""

    def __init__(
        self, checkpoint: Checkpoint, files: ExitStack, device: torch.device, on_progress: OnProgress
    ) -> None:
        self._checkpoint = checkpoint
        self._files = files
        self._device = device
        self._on_progress = on_progress
        self._open: dict[Path, Any] = {}
        self._num_read = 0
        self.failure: Exception | None = None  # transformers tells of it, but not which

    def read(self, name: str, dtype: torch.dtype | None) -> torch.Tensor:
        entry = self._checkpoint.tensors[name]
        try:
            tensor = self._tensor(entry.file, name).to(device=self._device, dtype=dtype)
            self._num_read += entry.num_bytes
            self._on_progress(self._num_read / self._checkpoint.num_bytes)
        except Exception as error:
            self.failure = self.failure or error
            raise
        return tensor

    def _tensor(self, file: Path, name: str) -> torch.Tensor:
        try:
            if file not in self._open:
                # "pread": a mapped file is at the mercy of whoever rewrites it, and counts as memory twice.
                opened = safetensors.safe_open(file, framework="pt", backend="pread")
                self._open[file] = self._files.enter_context(opened)
            tensor: torch.Tensor = self._open[file].get_tensor(name)
        except (OSError, safetensors.SafetensorError) as error:
            raise model_broken(file, f"{name} cannot be read: {error}") from error
        return tensor


class _Stored:
    """Stands for a tensor on disk where transformers expects one, and is read when it is moved to a device.

    The device is ours whatever transformers says: without a device map, which takes another package, it would
    have every tensor on the CPU first.
    """

    def __init__(self, reader: _Reader, name: str) -> None:
        self._reader = reader
        self._name = name

    def __getitem__(self, _: object) -> _Stored:
        return self

    def to(self, *, device: object = None, dtype: torch.dtype | None = None) -> torch.Tensor:
        return self._reader.read(self._name, dtype)


@torch.inference_mode()
def _probe(model: Any, text: Any) -> tuple[AttentionProbe, torch.Tensor]:
    """Run a few tokens through the model: what its layers store, and the logits after the last."""
    probe = AttentionProbe()
    tokens = torch.zeros(1, _PROBE_TOKENS, dtype=torch.int64, device=model.device)
    positions = torch.arange(_PROBE_TOKENS, device=model.device)
    with use_backend(probe):
        out = model(
            input_ids=tokens, position_ids=positions[None], use_cache=False, logits_to_keep=positions[-1:]
        )
    if len(probe.layers) != text.num_hidden_layers:
        raise UnsupportedAttentionError(
            f"{text.num_hidden_layers - len(probe.layers)} of its layers do not attend"
        )
    if "sliding_attention" in (getattr(text, "layer_types", None) or ()) and not any(
        params.window for params in probe.params.values()
    ):
        raise UnsupportedAttentionError("its sliding layers do not tell their window")
    return probe, out.logits


def context_of(text: Any) -> int:
    """Positions the model is good for.

    LongRoPE changes all frequencies once a sequence is longer than the original context, also those of keys
    already in the cache and of other requests in the batch, so such a model ends there.
    """
    bounds = [getattr(text, "max_position_embeddings", None) or _DEFAULT_CONTEXT]
    ropes = getattr(text, "rope_parameters", None) or {}
    for rope in (ropes, *(value for value in ropes.values() if isinstance(value, dict))):
        if rope.get("rope_type") == "longrope":
            original = getattr(text, "original_max_position_embeddings", None)
            bounds.append(rope.get("original_max_position_embeddings") or original or bounds[0])
    return min(bounds)
