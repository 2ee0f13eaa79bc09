"""From a body and a model to what the engine is asked: prompt, constraint, and a `Submit` per choice."""

from __future__ import annotations
