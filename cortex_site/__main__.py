from __future__ import annotations

from cortex_site.cli import main

main()
