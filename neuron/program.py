"""The `neuron` command: says what is missing where cortex was installed without its extra `neuron`."""

from __future__ import annotations

import sys

from cortex_site.base.extras import lacking
from cortex_site.base.interpreter import favour_start


def main() -> None:
    if objections := lacking("daemon", "neuron"):
        print(f"neuron: {objections[-1]}", file=sys.stderr)  # noqa: T201 - a command's own error
        sys.exit(2)
    favour_start()
    from neuron.cli import main as run  # noqa: PLC0415 - needs what was just asked for

    run()


if __name__ == "__main__":
    main()
