"""How settings name what drafts a model's answers.

A test holds names and number to `neuron.engine.drafter`, which fleets may not import.
"""

from __future__ import annotations

from typing import Literal, get_args

NodeSpeculation = Literal["auto", "ngram", "off"]  # of models that say nothing
MOST_DRAFT_TOKENS = 15  # of one answer in one step
SPECULATIONS: tuple[str, ...] = (*get_args(NodeSpeculation), "mtp")  # beside the names of other models
