"""How settings name what cached keys and values are stored as.

A test holds the names to `neuron.device.page_pool`, which fleets may not import.
"""

from __future__ import annotations

from typing import Literal, get_args

KVDtype = Literal["auto", "fp8", "int8"]
KV_DTYPES: tuple[str, ...] = get_args(KVDtype)
