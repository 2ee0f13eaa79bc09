"""`python -m cortex_site.site.control`: the control plane, by daphne, whose options it takes."""

from __future__ import annotations

import sys

from cortex_site.base.interpreter import favour_start

APPLICATION = "cortex_site.site.asgi:application"
OPTIONS = ("--no-server-name", "-v", "0")

if __name__ == "__main__":
    favour_start()
    from daphne.cli import CommandLineInterface

    CommandLineInterface().run([*sys.argv[1:], *OPTIONS, APPLICATION])
