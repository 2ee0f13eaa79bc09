"""What a notation's parser reads, and how an expected call looks; ids count from `call_0` on."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from neuron.text.events import CallArguments, CallStart, Event
from neuron.text.notations.known import NOTATIONS
from tests.text.splitting import merged


def read_calls(name: str, pieces: Iterable[str], tools: Mapping[str, Any]) -> list[Event]:
    numbers = itertools.count()
    parser = NOTATIONS[name].parser(lambda name, index: f"call_{next(numbers)}", tools)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return merged(events + parser.finish())


def call(name: str = "f", arguments: str = '{"a": 1}', index: int = 0) -> list[Event]:
    return [
        CallStart(index, f"call_{index}", name),
        *([CallArguments(index, arguments)] if arguments else []),
    ]
