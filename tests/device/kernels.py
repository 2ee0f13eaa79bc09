"""Stand-ins for a GPU: torch's paged kernel in plain torch, and captures by tracing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import make_fx

Computation = Callable[[], torch.Tensor]


def varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
    seqused_k: torch.Tensor,
    block_table: torch.Tensor,
) -> torch.Tensor:
    """Do what `torch.nn.attention.varlen.varlen_attn` documents.

    Nothing here reads a tensor's values on the host, so it can be traced.
    """
    assert all(t.dtype is torch.int32 for t in (cu_seq_q, cu_seq_k, seqused_k, block_table))
    assert window_size[1] == 0
    assert enable_gqa == (query.shape[1] != key.shape[2])
    rows = torch.arange(len(query), device=query.device)
    sequence = torch.bucketize(rows, cu_seq_q[1:].long(), right=True)
    lengths = seqused_k[sequence].long()
    position = lengths - cu_seq_q[sequence + 1] + rows
    keys, values = (pool[block_table.long()].flatten(1, 2)[sequence] for pool in (key, value))
    group = query.shape[1] // keys.shape[2]
    keys, values = (t.repeat_interleave(group, dim=2) for t in (keys, values))
    place = torch.arange(keys.shape[1], device=query.device)
    seen = (place <= position[:, None]) & (place < lengths[:, None])
    if window_size[0] >= 0:
        seen = seen & (place >= position[:, None] - window_size[0])
    scores = torch.einsum("qhd,qkhd->qhk", query.float(), keys.float()) * scale
    weights = scores.masked_fill(~seen[:, None], float("-inf")).softmax(dim=-1)
    return torch.einsum("qhk,qkhd->qhd", weights, values.float()).to(query.dtype)


class TracingCapture:
    """Traces once. Replays run the same operations on the same tensors without Python, like a CUDA graph."""

    def __init__(self) -> None:
        self.replays: list[int] = []  # rows of each

    def __call__(self, compute: Computation) -> Computation:
        graph: Any = make_fx(compute)()

        def replay() -> torch.Tensor:
            result: torch.Tensor = graph()
            self.replays.append(len(result))
            return result

        return replay
