"""JSON Schemas as clients send them, made fit for grammars: what can be enforced of them, and what cannot."""

from __future__ import annotations
