"""How models write tool calls: for each notation a parser of answers and a grammar for forced calls."""

from __future__ import annotations
