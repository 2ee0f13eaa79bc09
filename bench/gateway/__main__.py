"""The gateway beside its peers: one core, one mock node, one load, in one run.

    python -m bench.gateway prepare
    python -m bench.gateway [--quick] [--json] [--save NAME] [--only PEER ...]

The last line is one JSON object. Ratios are medians over rounds in which all servers take turns; what each
key means is in `bench/gateway/measure.py`. `--save NAME` writes bench/results/gateway-NAME.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from bench.common import rounded, save
from bench.gateway.measure import FULL, QUICK, measure
from bench.gateway.peers import BY_NAME, prepare

RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gateway", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("verb", nargs="?", choices=["measure", "prepare"], default="measure")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, shorter ones: within 3 minutes")
    parser.add_argument("--json", action="store_true", help="nothing but the JSON object on stdout")
    parser.add_argument("--save", metavar="NAME", help="write bench/results/gateway-NAME.json")
    parser.add_argument("--only", nargs="*", choices=BY_NAME, help="these peers (default: all)")
    arguments = parser.parse_args()
    if arguments.verb == "prepare":
        prepare()
        return
    chosen = list(BY_NAME) if arguments.only is None else arguments.only
    say = (lambda _: None) if arguments.json else lambda text: print(text, file=sys.stderr, flush=True)
    figures = rounded(measure(QUICK if arguments.quick else FULL, [BY_NAME[name] for name in chosen], say))
    if arguments.save:
        save(figures, RESULTS / f"gateway-{arguments.save}.json")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
