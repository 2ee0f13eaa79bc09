from __future__ import annotations

from cortex_site.cli.app import main

main()
