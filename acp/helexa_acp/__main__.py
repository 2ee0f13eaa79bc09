from __future__ import annotations

from helexa_acp.cli.app import main

raise SystemExit(main())
