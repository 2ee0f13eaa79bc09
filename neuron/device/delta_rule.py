"""The gated delta rule over a step's sequences (Yang, Kautz and Hatamizadeh 2024, "Gated Delta Networks").

A head's state is a matrix S that maps keys to values. Each token lets it decay, then corrects what it has for
the token's key towards the token's value, and reads it with the token's query:

    S <- a S;  S <- S + k (b (v - k S));  out = q S

One token a sequence is read so. More are read in chunks: what a chunk's tokens write is the solution of a
triangular system, and the rest are matrix products.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neuron.device.state_pool import StateName, state_groups

_CHUNK = 32  # tokens at most


def gated_delta_rule(
    name: StateName, query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, strength: Tensor
) -> Tensor:
    """Return what a flat batch's queries read, (tokens, heads, value_dim), everything in float32.

    `query` and `key` are (tokens, key_heads, key_dim), each for as many neighbouring heads of `value`,
    (tokens, heads, value_dim), and of `log_decay` and `strength`, log a and b above, (tokens, heads). The
    state `name` is (heads, key_dim, value_dim).
    """
    parts = []
    for group in state_groups():
        inputs = [group.cut(flat) for flat in (query, key, value, log_decay, strength)]
        if group.width == 1:
            parts.append(group.update(name, _read_token, *(x[:, 0] for x in inputs)))
        else:
            out, states = _read_chunks(group.read(name), *inputs)
            group.write(name, states)
            parts.append(out.flatten(0, 1))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _read_token(
    states: Tensor, query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, strength: Tensor
) -> Tensor:
    """Change `states`, (rows, heads, key_dim, value_dim), by a token, and return what its query reads.

    q S is q (a S) + (q k) (b (v - k a S)): key and query read the state in one pass.
    """
    states.mul_(log_decay.exp()[..., None, None])
    pair = torch.stack([key, query], 2)
    if (repeats := states.shape[1] // key.shape[1]) > 1:
        pair = pair.repeat_interleave(repeats, 1)
    found = torch.bmm(pair.flatten(0, 1), states.flatten(0, 1)).view(*pair.shape[:3], -1)
    key, query = pair.unbind(2)
    change = (value - found[:, :, 0]).mul_(strength[..., None])
    states.addcmul_(key.unsqueeze(3), change.unsqueeze(2))
    return torch.addcmul(found[:, :, 1], (query * key).sum(2, keepdim=True), change)


def _read_chunks(
    states: Tensor, query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, strength: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what the queries of (rows, width, …) read, and the states after them.

    What a chunk's tokens write, their b (v - k S), is T (V - K S): S as it was before the chunk, and T what
    earlier tokens of the chunk have written already.
    """
    rows, width, key_heads = key.shape[:3]
    heads = value.shape[2]
    size = -(-width // -(-width // _CHUNK))  # of chunks that are alike, to the token that is missing to each
    query, key, value, log_decay, strength = (
        in_chunks(x, size) for x in (query, key, value, log_decay, strength)
    )
    decay = log_decay.cumsum(3)  # since the chunk began
    since = decay_between(decay)
    pair = torch.stack([key, query], 3)  # (chunks, rows, key_heads, 2, size, key_dim)
    found = pair.flatten(3, 4) @ pair[:, :, :, 0].mT  # of keys, then of queries, for keys
    found = found.view(*pair.shape[:3], 1, 2, size, size)
    repeats = heads // key_heads
    scores = found * since.view(*pair.shape[:3], repeats, 1, size, size)
    keys, queries = scores.flatten(2, 3).unbind(3)
    solved = torch.linalg.solve_triangular(
        keys * strength[..., None], strength.diag_embed(), upper=False, unitriangular=True
    )

    # From here on rows and heads are one dimension.
    pair = pair.flatten(3, 4).repeat_interleave(repeats, 2).flatten(1, 2)
    key = pair[:, :, :size].mT
    value, solved, queries = (x.flatten(1, 2) for x in (value, solved, queries))
    kept = decay.exp().flatten(1, 2)[..., None]
    left = (decay[..., -1:] - decay).exp_().flatten(1, 2)[..., None]
    states = states.flatten(0, 1)
    out = torch.empty_like(value)
    for at in range(len(value)):
        read = pair[at] @ states
        written = solved[at] @ torch.addcmul(value[at], read[:, :size], kept[at], value=-1)
        torch.baddbmm(read[:, size:] * kept[at], queries[at], written, out=out[at])
        states = (states * kept[at, :, -1:]).baddbmm_(key[at], written * left[at])
    out = out.view(-1, rows, heads, *out.shape[2:]).permute(1, 0, 3, 2, 4)
    return out.flatten(1, 2)[:, :width], states.view(rows, heads, *states.shape[1:])


def in_chunks(x: Tensor, size: int) -> Tensor:
    """Return (chunks, rows, heads, size, …) for (rows, width, heads, …), zeros at the end."""
    if missing := -x.shape[1] % size:
        x = torch.cat([x, x.new_zeros(len(x), missing, *x.shape[2:])], 1)
    x = x.view(len(x), -1, size, *x.shape[2:])
    return x.transpose(0, 1).transpose(2, 3)


def decay_between(decay: Tensor) -> Tensor:
    """Return how much of what each token wrote later tokens find, (…, size, size), nothing being earlier.

    `decay` is the logarithm of what is left since the chunk began, (…, size).
    """
    size = decay.shape[-1]
    later = torch.ones(size, size, dtype=torch.bool, device=decay.device).triu(1)
    return (decay[..., None] - decay[..., None, :]).masked_fill_(later, float("-inf")).exp_()
