"""What clients send: the bodies of the inference API as structs, with every parameter known by name."""

from __future__ import annotations
