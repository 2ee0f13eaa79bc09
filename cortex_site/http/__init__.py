from __future__ import annotations

import ext  # noqa: F401 - it says which twin of a compiled module is imported
