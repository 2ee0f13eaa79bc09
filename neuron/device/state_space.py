"""Selective state spaces over a step's sequences (Dao and Gu 2024, "Transformers are SSMs", section 6).

A head's state is a matrix S that a token lets decay, writes its value to with its key, and reads with its
query (Mamba 2 calls them x, B and C):

    S <- a S + k v;  out = q S

One token a sequence is read so. More are read in chunks, by matrix products.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neuron.device.delta_rule import decay_between, in_chunks
from neuron.device.state_pool import StateName, state_groups

_CHUNK = 64  # tokens at most


def state_space(name: StateName, query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor) -> Tensor:
    """Return what a flat batch's queries read, (tokens, heads, value_dim), everything in float32.

    `query` and `key` are (tokens, key_heads, key_dim), each for as many neighbouring heads of `value`,
    (tokens, heads, value_dim), and of `log_decay`, log a above, (tokens, heads). The state `name` is (heads,
    key_dim, value_dim).
    """
    parts = []
    for group in state_groups():
        inputs = [group.cut(flat) for flat in (query, key, value, log_decay)]
        if group.width == 1:
            parts.append(group.update(name, _read_token, *(x[:, 0] for x in inputs)))
        else:
            out, states = _read_chunks(group.read(name), *inputs)
            group.write(name, states)
            parts.append(out.flatten(0, 1))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _read_token(states: Tensor, query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor) -> Tensor:
    """Change `states`, (rows, heads, key_dim, value_dim), by a token, and return what its query reads."""
    repeats = states.shape[1] // key.shape[1]
    query, key = (x.repeat_interleave(repeats, 1) for x in (query, key))
    states.mul_(log_decay.exp()[..., None, None]).addcmul_(key.unsqueeze(3), value.unsqueeze(2))
    return torch.bmm(query.flatten(0, 1).unsqueeze(1), states.flatten(0, 1)).view(value.shape)


def _read_chunks(
    states: Tensor, query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what the queries of (rows, width, …) read, and the states after them."""
    rows, width, key_heads = key.shape[:3]
    heads = value.shape[2]
    size = -(-width // -(-width // _CHUNK))
    repeats = heads // key_heads
    query, key, value, log_decay = (in_chunks(x, size) for x in (query, key, value, log_decay))
    decay = log_decay.cumsum(3)  # since the chunk began
    scores = (query @ key.mT).repeat_interleave(repeats, 2) * decay_between(decay)

    # From here on rows and heads are one dimension.
    query, key = (x.repeat_interleave(repeats, 2).flatten(1, 2) for x in (query, key))
    value, scores = (x.flatten(1, 2) for x in (value, scores))
    kept = decay.exp().flatten(1, 2)[..., None]
    left = (decay[..., -1:] - decay).exp_().flatten(1, 2)[..., None]
    states = states.flatten(0, 1)
    out = torch.empty_like(value)
    for at in range(len(value)):
        torch.baddbmm((query[at] @ states) * kept[at], scores[at], value[at], out=out[at])
        states = (states * kept[at, :, -1:]).baddbmm_(key[at].mT, value[at] * left[at])
    out = out.view(-1, rows, heads, *out.shape[2:]).permute(1, 0, 3, 2, 4)
    return out.flatten(1, 2)[:, :width], states.view(rows, heads, *states.shape[1:])
