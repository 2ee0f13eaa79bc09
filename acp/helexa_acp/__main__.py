from __future__ import annotations

from helexa_acp.cli import main

raise SystemExit(main())
