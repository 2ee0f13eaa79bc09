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
from torch.nn.functional import pad

from neuron.device.state_pool import StateName, state_groups

_CHUNK = 32  # tokens


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
    """Return what the queries of (rows, width, …) read, and the states after them."""
    width = query.shape[1]
    size = min(_CHUNK, width)
    if (repeats := states.shape[1] // key.shape[2]) > 1:
        query, key = (x.repeat_interleave(repeats, 2) for x in (query, key))
    query, key, value = (_in_chunks(x, size) for x in (query, key, value))
    decay, strength = (_in_chunks(x[..., None], size) for x in (log_decay, strength))
    decay = decay.cumsum(3)  # since the chunk began

    # What the tokens write is v' = b (v - k S): S as it was before the chunk, and what its earlier tokens
    # have written to it.
    later = torch.ones(size, size, dtype=torch.bool, device=query.device).triu(1)
    since = (decay - decay.mT).masked_fill(later, float("-inf")).exp()
    weighted = key * strength
    wanted = torch.cat([value * strength, weighted * decay.exp()], 4)
    solved = torch.linalg.solve_triangular(
        (weighted @ key.mT) * since, wanted, upper=False, unitriangular=True
    )
    values, keys = solved.split([value.shape[4], key.shape[4]], 4)

    scores = (query @ key.mT) * since
    query = query * decay.exp()
    key = key * (decay[..., -1:, :] - decay).exp()
    kept = decay[..., -1:, :].exp()
    out = torch.empty_like(value)
    for at in range(value.shape[2]):
        written = values[:, :, at] - keys[:, :, at] @ states
        out[:, :, at] = query[:, :, at] @ states + scores[:, :, at] @ written
        states = states * kept[:, :, at] + key[:, :, at].mT @ written
    return out.flatten(2, 3)[:, :, :width].transpose(1, 2), states


def _in_chunks(x: Tensor, size: int) -> Tensor:
    """Return (rows, heads, chunks, size, dim) for (rows, width, heads, dim), zeros at the end."""
    x = pad(x.transpose(1, 2), (0, 0, 0, -x.shape[1] % size))
    return x.reshape(*x.shape[:2], -1, size, x.shape[3])
