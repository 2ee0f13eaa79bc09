"""How many of each thing a model's cache has, within the memory that is left for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from neuron.device.kv_cache import KVShape
from neuron.device.memory import MIB
from neuron.device.page_pool import Coding
from neuron.models.checkpoint import ModelLoadError

_KV_SHARE = 0.5  # of what the weights leave; the rest is for the next model and for activations
_CPU_KV_BYTES = 256 * MIB  # enough on a CPU, unless one context is longer
_STATE_SHARE = 0.25  # of what weights leave, for what layers keep of sequences besides keys and values


def count_host(
    page_bytes: int, state_bytes: int, free: int, host_mb: int, *, on_device: bool
) -> tuple[int, int]:
    """Return how many pages and snapshots may be in `host_mb` of host memory: half of it each.

    Where that is the device's own memory, they get half of what is `free` at most.
    """
    wanted = host_mb * MIB
    room = min(wanted, max(0, free) // 2) if on_device else wanted
    share = room // 2 if page_bytes and state_bytes else room
    return share // page_bytes if page_bytes else 0, share // state_bytes if state_bytes else 0


def count_states(state_bytes: int, free: int, per_slot: int, most: int) -> tuple[int, int]:
    """Return how many requests may run at once, fewer than `most` if their states take too much.

    Then how many snapshots of states are kept: two for each, if there is room.
    """
    if not state_bytes:
        return most, 0
    count = max(per_slot, int(free * _STATE_SHARE) // state_bytes)
    num_slots = min(most, max(1, count // (per_slot + 2)))
    return num_slots, min(2 * num_slots, count - per_slot * num_slots)


def kv_bytes(one_context: int, free: int, kv_mb: int | None, *, on_cpu: bool) -> int:
    """Return the bytes that keys and values may take of what is `free`: `kv_mb` if that is set."""
    if kv_mb is not None:
        return min(kv_mb * MIB, free)
    share = int(free * _KV_SHARE)
    return min(share, max(one_context, _CPU_KV_BYTES)) if on_cpu else share


def check_coding(path: Path, layers: Mapping[int, KVShape], coding: Coding | None) -> None:
    """Raises `ModelLoadError` for a model whose cache cannot be codes."""
    reasons = [shape.needs_exactness for shape in layers.values() if shape.needs_exactness]
    if coding and reasons:
        cause = f"kv_dtype {coding.name!r} is not for this model, since {reasons[0]}: load it with 'auto'"
        raise ModelLoadError("model_unsupported", f"{path}: {cause}")
