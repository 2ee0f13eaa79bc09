"""All names of transformers and torch that are not public and are used, and the only code that uses them.

They may change in any release. `NAMES` says how each looked when it was read, in the oldest and in the newest
release that this code supports; a test compares that with what is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuron.device.pieces import register_product

READ_AT = {"transformers": ("5.17", "5.23"), "torch": ("2.11", "2.13")}


@dataclass(frozen=True, slots=True)
class PrivateName:
    """A private name as it was read."""

    path: str  # module:attribute, the module starting with the library's name
    signatures: tuple[str, ...]  # one for each form it had; an attribute's is its value
    used_in: str


_INNER_K_TILES = 8  # of 16 inputs, that a thread reads at once
_PACKED = "__torch__.torch.classes.quantized.LinearPackedParamsBase"

NAMES = (
    PrivateName(
        "transformers.processing_utils:ProcessorMixin._process_images",
        ("(self, images, **kwargs)",),
        "neuron/models/image_processor.py",
    ),
    PrivateName(
        "transformers.processing_utils:ProcessorMixin._merge_kwargs",
        (
            "(self, ModelProcessorKwargs, tokenizer_init_kwargs=None, **kwargs)",
            "(self, ModelProcessorKwargs=None, tokenizer_init_kwargs=None, **kwargs)",
        ),
        "neuron/models/image_processor.py",
    ),
    PrivateName(
        "transformers.modeling_utils:PreTrainedModel._supports_attention_backend",
        ("False",),
        "neuron/models/architecture.py",
    ),
    PrivateName(
        "transformers.configuration_utils:PreTrainedConfig._attn_implementation.fget",
        ("(self)",),
        "neuron/models/text_encoder.py",
    ),
    # Never called here, but it decides how tensors of a state dict are read: `tensor[...]`, then `.to`.
    PrivateName(
        "transformers.core_model_loading:_materialize_copy",
        ("(tensor, device=None, dtype=None)",),
        "neuron/models/weights.py",
    ),
    # Of the classes of experts, which all have one.
    PrivateName(
        "transformers.integrations.moe:_default_apply_gate",
        ("(self, gate_up_out)",),
        "neuron/models/fused/experts.py",
    ),
    PrivateName(
        "torch:_C.DisableTorchFunctionSubclass",
        ("<class 'torch._C.DisableTorchFunctionSubclass'>",),
        "neuron/models/stored_weight.py",
    ),
    PrivateName(
        "torch:ops.aten._to_copy",
        (
            (
                "aten::_to_copy(Tensor self, *, ScalarType? dtype=None, Layout? layout=None, "
                "Device? device=None, bool? pin_memory=None, bool non_blocking=False, "
                "MemoryFormat? memory_format=None) -> Tensor"
            ),
        ),
        "neuron/models/stored_weight.py",
    ),
    PrivateName(
        "torch:ops.mkldnn._is_mkldnn_bf16_supported",
        ("mkldnn::_is_mkldnn_bf16_supported() -> bool _0",),
        "neuron/models/formats/floats.py",
    ),
    PrivateName(
        "torch:ops.mkldnn._reorder_linear_weight",
        ("mkldnn::_reorder_linear_weight(Tensor self, int? batch_size=None) -> Tensor Y",),
        "neuron/models/formats/floats.py",
    ),
    PrivateName(
        "torch:ops.mkldnn._linear_pointwise",
        (
            (
                "mkldnn::_linear_pointwise(Tensor X, Tensor W, Tensor? B, str attr, Scalar?[] scalars, "
                "str? algorithm) -> Tensor Y"
            ),
        ),
        "neuron/models/formats/floats.py",
    ),
    PrivateName(
        "torch:ops.aten._scaled_mm",
        (
            (
                "aten::_scaled_mm(Tensor self, Tensor mat2, Tensor scale_a, Tensor scale_b, "
                "Tensor? bias=None, Tensor? scale_result=None, ScalarType? out_dtype=None, "
                "bool use_fast_accum=False) -> Tensor"
            ),
        ),
        "neuron/models/cuda/torch_products.py",
    ),
    PrivateName(
        "torch:ops.aten._scaled_grouped_mm",
        (
            (
                "aten::_scaled_grouped_mm(Tensor self, Tensor mat2, Tensor scale_a, Tensor scale_b, "
                "Tensor? offs=None, Tensor? bias=None, Tensor? scale_result=None, "
                "ScalarType? out_dtype=None, bool use_fast_accum=False) -> Tensor"
            ),
        ),
        "neuron/models/cuda/torch_products.py",
    ),
    PrivateName(
        "torch:ops.aten._convert_weight_to_int4pack",
        ("aten::_convert_weight_to_int4pack(Tensor self, int innerKTiles) -> Tensor",),
        "neuron/models/cuda/torch_products.py",
    ),
    PrivateName(
        "torch:ops.aten._weight_int4pack_mm",
        (
            (
                "aten::_weight_int4pack_mm(Tensor self, Tensor mat2, int qGroupSize, "
                "Tensor qScaleAndZeros) -> Tensor"
            ),
        ),
        "neuron/models/cuda/torch_products.py",
    ),
    PrivateName(
        "torch:ops.quantized.linear_prepack_fp16",
        (f"quantized::linear_prepack_fp16(Tensor W, Tensor? B=None) -> {_PACKED} W_prepack",),
        "neuron/models/formats/floats.py",
    ),
    PrivateName(
        "torch:ops.quantized.linear_dynamic_fp16",
        (f"quantized::linear_dynamic_fp16(Tensor X, {_PACKED} W_prepack) -> Tensor Y",),
        "neuron/models/formats/floats.py",
    ),
)


# --- transformers -----------------------------------------------------------------------------------------


def supports_attention_interface(model_class: Any) -> bool:
    """Return whether all attention of a model class goes through transformers' `AttentionInterface`."""
    return bool(getattr(model_class, "_supports_attention_backend", False))


def attention_implementation(model: Any) -> str | None:
    """Return what `set_attn_implementation` takes to undo a later call of it on a model of transformers."""
    name: str | None = model.config._attn_implementation  # noqa: SLF001
    return name


def image_options(processor: Any) -> dict[str, Any]:
    """Return the options with which a processor's own call processes images, for tensors of torch."""
    merged = processor._merge_kwargs(processor.valid_processor_kwargs, return_tensors="pt")  # noqa: SLF001
    options: dict[str, Any] = merged["images_kwargs"]
    return options


def process_images(
    processor: Any, images: Sequence[Any], options: Mapping[str, Any]
) -> tuple[Mapping[str, Tensor], list[str]]:
    """Return the tensors of `images` and the text that stands for each: a processor's call without a text."""
    processed: tuple[Mapping[str, Tensor], list[str]] = processor._process_images(  # noqa: SLF001
        images, **options
    )
    return processed


def experts_activation(module: Any) -> Callable[[Tensor], Tensor]:
    """Return what a module of experts does between its two products, to (rows, up) or (rows, gate and up)."""
    activation: Callable[[Tensor], Tensor] = module._apply_gate if module.has_gate else module.act_fn  # noqa: SLF001
    return activation


# --- torch ------------------------------------------------------------------------------------------------


TO_COPY = torch.ops.aten._to_copy.default  # noqa: SLF001 - what `Tensor.to` comes to


def call_dispatched(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Return what a function of torch returns for a subclass of Tensor that only has `__torch_dispatch__`."""
    with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001
        return function(*args, **kwargs)


def onednn_multiplies(dtype: torch.dtype) -> bool:
    """Return whether oneDNN multiplies `dtype` on this CPU without converting it."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001
    return dtype is torch.float32


def onednn_linear(weight: Tensor, bias: Tensor | None, rows: int | None = None) -> Callable[[Tensor], Tensor]:
    """Return the linear map in oneDNN's own layout, by the operation that torch's compiler emits.

    The layout is the one that is best for as many `rows`, where it makes a difference.
    """
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)  # noqa: SLF001
    multiply = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001
    register_product(multiply)
    return lambda x: multiply(x, packed, bias, "none", [], "")


def has_fbgemm() -> bool:
    """Return whether this build of torch has FBGEMM, for this CPU."""
    return "fbgemm" in torch.backends.quantized.supported_engines


def fbgemm_linear(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Return the linear map with weights in float16, activations and sums in float32."""
    bias = None if bias is None else bias.float()
    packed = torch.ops.quantized.linear_prepack_fp16(weight.float(), bias)
    multiply = torch.ops.quantized.linear_dynamic_fp16
    return lambda x: multiply(x, packed)


def scaled_mm(x: Tensor, weight: Tensor, x_scale: Tensor, weight_scale: Tensor) -> Tensor:
    """Return the product in bfloat16 of 8-bit floats, (rows, in) and transposed (out, in).

    Scales are (rows, 1) and (1, out), float32.
    """
    out: Tensor = torch.ops.aten._scaled_mm(x, weight, x_scale, weight_scale, out_dtype=torch.bfloat16)  # noqa: SLF001
    return out


def scaled_grouped_mm(
    x: Tensor, weight: Tensor, x_scale: Tensor, weight_scale: Tensor, ends: Tensor
) -> Tensor:
    """Return the same by one of several matrices, (experts, in, out): each has the rows up to its end.

    Scales are (rows,) and (experts, out).
    """
    out: Tensor = torch.ops.aten._scaled_grouped_mm(  # noqa: SLF001
        x, weight, x_scale, weight_scale, offs=ends, out_dtype=torch.bfloat16
    )
    return out


def pack_int4(codes: Tensor) -> Tensor:
    """Return codes of four bits as `int4_mm` takes them.

    They are (out, in / 2), with an even input's in the upper bits.
    """
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack(codes, _INNER_K_TILES)  # noqa: SLF001
    return packed


def int4_mm(x: Tensor, packed: Tensor, group: int, scales_and_zeros: Tensor) -> Tensor:
    """Return the product of bfloat16 by (code - 8) * scale + zero, which are (in / group, out, 2)."""
    out: Tensor = torch.ops.aten._weight_int4pack_mm(x, packed, group, scales_and_zeros)  # noqa: SLF001
    return out
