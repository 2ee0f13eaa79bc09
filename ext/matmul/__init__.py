"""Products of matrices as they are stored, in C: the compiled module, or None where it was not built.

Memory is passed by address, so this package knows neither torch nor NumPy. `neuron.models` has the shapes.
"""

from __future__ import annotations

import os
from types import ModuleType

SETTING = "CORTEX_INSTRUCTION_SET"  # an environment variable: one of `_matmul.instruction_sets()`


def load() -> ModuleType | None:
    if os.environ.get("CORTEX_PURE_PYTHON"):
        return None
    try:
        from ext.matmul import _matmul  # noqa: PLC0415 - not built everywhere
    except ImportError:
        return None
    return _matmul
