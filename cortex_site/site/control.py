"""`python -m cortex_site.site.control`: the control plane, by daphne, whose options it takes."""

from __future__ import annotations

import gc
import sys
from importlib import import_module

from cortex_site.base.interpreter import favour_start

APPLICATION = "cortex_site.site.asgi:application"
OPTIONS = ("--no-server-name", "-v", "0")

if __name__ == "__main__":
    favour_start()
    from daphne.cli import CommandLineInterface

    import_module(APPLICATION.partition(":")[0])
    gc.freeze()  # what exists now stays: walking it would delay a page by a tenth of a second

    CommandLineInterface().run([*sys.argv[1:], *OPTIONS, APPLICATION])
