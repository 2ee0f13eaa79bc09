"""Attention by torch's own kernel for paged caches, where it works.

`torch.nn.attention.varlen.varlen_attn` reads pages in place; without it each step gathers the pages of its
sequences (`sdpa`). Whether this torch has the kernel, for which types and with which page sizes, is tried
when a model is loaded: its result must agree with `SdpaAttention`'s.

torch 2.13 is the first with `block_table`; older releases have the function without it, or not at all.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuron.device.attention import AttentionParams
from neuron.device.batch import Batch
from neuron.device.kv_cache import KVCache, KVShape, PageTable
from neuron.device.page_pool import Coding
from neuron.device.sdpa import SdpaAttention
from neuron.pipe import Sampling
from neuron.step import CacheShape, Chunk, Joined, StepPlan

log = logging.getLogger("neuron.device")

Kernel = Callable[..., Any]  # with the signature of `varlen_attn`

PAGE_SIZE = 16  # tokens, where attention does not care
_PAGE_SIZES = (PAGE_SIZE, 256)  # the second for FlashAttention 2
_TOLERANCE = 0.05  # of values around 1 in half precision; a wrong page or location misses by far more
_OPTIONS = {"scale", "window_size", "enable_gqa", "seqused_k", "block_table"}  # that `VarlenAttention` passes


@dataclass(frozen=True, slots=True)
class VarlenMetadata:
    """Which tokens and pages belong to each of a step's n sequences. Tensors are int32 on the device."""

    cu_seqlens_q: Tensor  # (n + 1,): where each sequence's queries begin in the flat batch, and their end
    cu_seqlens_k: Tensor  # (n + 1,): the same for keys, as if the cached tokens were one row
    seq_lens: Tensor  # (n,): tokens in the cache, this step's included
    block_table: Tensor  # (n, pages_per_slot)
    max_seqlen_q: int
    max_seqlen_k: int


class VarlenAttention:
    """The `AttentionBackend` by the kernel. Soft caps, sinks and chunks, which it lacks, go to `fallback`."""

    takes_floats = False

    def __init__(
        self,
        cache: KVCache,
        locations: Tensor,
        metadata: VarlenMetadata,
        kernel: Kernel,
        fallback: SdpaAttention | None = None,
        *,
        shows_images: bool = False,
    ) -> None:
        self._cache = cache
        self._locations = locations
        self._metadata = metadata
        self._kernel = kernel
        self._fallback = fallback
        self._shows_images = shows_images

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, *, params: AttentionParams
    ) -> Tensor:
        is_plain = params.is_plain and not (params.images and self._shows_images)
        if self._fallback and not is_plain:
            return self._fallback(layer, query, key, value, params=params)
        if params.latent:
            query = params.latent.absorb(query)
        self._cache.write(layer, self._locations, key, value)
        keys, values = self._cache.pools(layer)
        metadata = self._metadata
        left = -1 if params.window is None else params.window - 1
        out: Tensor = self._kernel(
            query.contiguous(),
            keys,
            values,
            metadata.cu_seqlens_q,
            metadata.cu_seqlens_k,
            metadata.max_seqlen_q,
            metadata.max_seqlen_k,
            scale=params.scale,
            window_size=(left, 0),
            enable_gqa=query.shape[1] != keys.shape[2],
            seqused_k=metadata.seq_lens,
            block_table=metadata.block_table,
            **self._cache.scales(layer),
        )
        return params.latent.project(out) if params.latent else out


def varlen_attention(
    cache: KVCache, table: PageTable, plan: StepPlan, batch: Batch, kernel: Kernel
) -> VarlenAttention:
    """Return the backend for a step of prompts and answers."""
    chunks = [plan.chunks[index] for index in batch.order]
    device = batch.tokens.device
    seq_lens = torch.tensor([chunk.end for chunk in chunks], dtype=torch.int32, device=device)
    metadata = VarlenMetadata(
        cu_seqlens_q=torch.tensor([0, *batch.ends], dtype=torch.int32, device=device),
        cu_seqlens_k=cumulative_lengths(seq_lens),
        seq_lens=seq_lens,
        block_table=table.pages[torch.tensor([chunk.slot for chunk in chunks], device=device)].int(),
        max_seqlen_q=max(len(chunk.tokens) for chunk in chunks),
        max_seqlen_k=max(chunk.end for chunk in chunks),
    )
    fallback = SdpaAttention(cache, batch)
    shows_images = any(chunk.images for chunk in chunks)
    return VarlenAttention(cache, batch.locations, metadata, kernel, fallback, shows_images=shows_images)


def cumulative_lengths(lengths: Tensor) -> Tensor:
    """Return 0 and the sums of the first 1, 2, … of `lengths`: (n + 1,) for (n,), int32."""
    return torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))


# --- whether it works here --------------------------------------------------------------------------------


def find_varlen_kernel() -> Kernel | None:
    """Return torch's kernel, or None where this torch has none that reads pages."""
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 - not in every torch
    except ImportError:
        return None
    return varlen_attn if inspect.signature(varlen_attn).parameters.keys() >= _OPTIONS else None


def find_coded_kernel() -> Kernel | None:
    """Return the kernel for pages of codes, or None where Triton is not installed."""
    try:
        from neuron.device.cuda.coded_attention import coded_varlen  # noqa: PLC0415 - not everywhere
    except ImportError:
        return None
    return coded_varlen


def select_kernel(
    kernel: Kernel | None,
    layers: Mapping[int, KVShape],
    dtype: torch.dtype,
    device: torch.device,
    coding: Coding | None = None,
) -> tuple[Kernel | None, int]:
    """Return the kernel and the page size for a model with these layers; None where it does not work."""
    for size in _PAGE_SIZES if kernel else ():
        assert kernel
        try:
            if all(
                _matches_sdpa(kernel, size, layer, dtype, device, coding) for layer in set(layers.values())
            ):
                return kernel, size
            reason = "it disagrees with torch's plain attention"
        except torch.AcceleratorError:
            raise
        except Exception as error:  # noqa: BLE001 - compilers fail in ways of their own
            reason = str(error).partition("\n")[0]
        log.info("paged kernel not used", extra={"page_size": size, "reason": reason})
    return None, PAGE_SIZE


@torch.inference_mode()
def _matches_sdpa(
    kernel: Kernel,
    size: int,
    layer: KVShape,
    dtype: torch.dtype,
    device: torch.device,
    coding: Coding | None,
) -> bool:
    """Try two prompts, one of them longer than a page, with two query heads for each key head."""
    shape = CacheShape(num_pages=4, page_size=size, num_slots=2, context=2 * size)
    chunks = Chunk(0, (0,) * (size + 3), 0), Chunk(1, (0,) * 5, 0)
    joined = Joined(0, Sampling(), (), (), (2, 0)), Joined(1, Sampling(), (), (), (3, 1))
    plan = StepPlan(chunks, joined)
    table = PageTable(shape, device)
    table.update(plan)
    batch = Batch(plan, table, shape)

    def random(heads: int, dim: int) -> Tensor:
        return torch.randn(plan.num_tokens, heads, dim, dtype=dtype, device=device)

    query = random(2 * layer.kv_heads, layer.key_dim)
    key = random(layer.kv_heads, layer.key_dim)
    value = key if layer.values_are_keys else random(layer.kv_heads, layer.value_dim)
    for window in (None, size // 2):
        params = AttentionParams(scale=layer.key_dim**-0.5, window=window)
        cache = KVCache({0: layer}, shape, dtype=dtype, device=device, coding=coding)
        found = varlen_attention(cache, table, plan, batch, kernel)(0, query, key, value, params=params)
        wanted = SdpaAttention(cache, batch)(0, query, key, value, params=params)
        if not torch.allclose(found, wanted, rtol=0, atol=_TOLERANCE):
            return False
    return True
