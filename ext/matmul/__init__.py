"""Products of matrices as they are stored, in C, and what shares their threads: attention, of one token or of
an encoder, and the gated delta rule's step.

Memory is passed by address, so this package knows neither torch nor NumPy. `neuron.models.formats` has the
shapes.
"""

from __future__ import annotations

import os
from functools import cache
from types import ModuleType

SETTING = "CORTEX_INSTRUCTION_SET"  # an environment variable: one of `_matmul.instruction_sets()`


def load() -> ModuleType | None:
    """Return the compiled module, or None where it was not built."""
    if os.environ.get("CORTEX_PURE_PYTHON"):
        return None
    try:
        from ext.matmul import _matmul  # noqa: PLC0415 - not built everywhere
    except ImportError:
        return None
    return _matmul


@cache
def instruction_set() -> int:
    """Return the number of the set to use: the best one, or that of the setting. Raises ValueError."""
    native = load()
    names = native.instruction_sets() if native else []
    name = os.environ.get(SETTING) or next(iter(names), "")
    if name not in names:
        raise ValueError(f"{SETTING} is {name}; this CPU has {', '.join(names)}")
    return int(names.index(name))
