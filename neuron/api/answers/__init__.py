"""From the engine's tokens to what clients get: choices with logprobs and usage, whole or as chunks."""

from __future__ import annotations
