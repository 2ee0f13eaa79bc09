"""Weights that are quantized while a checkpoint of plain numbers is loaded."""

# What `quant` of a model may be, besides what its files are named by.
from __future__ import annotations

IN_SITU = ("q8_0", "q4_k", "int4", "fp8")
AS_STORED = "none"
