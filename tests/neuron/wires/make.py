"""Writes the shapes of this version's wire: `python -m tests.neuron.wires.make VERSION`."""

from __future__ import annotations

import inspect
import json
import sys
from functools import cache
from pathlib import Path

from pydantic import BaseModel

from neuron import wire


@cache
def shapes() -> dict[str, dict]:
    """The schema of each message between gateway and neuron."""
    return {
        name: found.model_json_schema()
        for name, found in inspect.getmembers(wire, inspect.isclass)
        if issubclass(found, BaseModel) and found.__module__ == wire.__name__
    }


if __name__ == "__main__":
    text = json.dumps({"protocol": wire.PROTOCOL, "shapes": shapes()}, indent=1)
    Path(__file__).with_name(f"{sys.argv[1]}.json").write_text(text + "\n")
