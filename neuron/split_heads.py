"""Over how many devices the heads of a model can be split: the rule for profiles and for ranks."""

from __future__ import annotations


def heads_problem(heads: int, kv_heads: int, ranks: int) -> str | None:
    """Why a model's attention cannot be split over so many devices, with what can; None where it can.

    Each rank has as many heads, and its own key heads, or one that it shares with others.
    """

    def divides(count: int) -> bool:
        return heads % count == 0 and (kv_heads % count == 0 or count % kv_heads == 0)

    if divides(ranks):
        return None
    key, value = ("num_attention_heads", heads) if heads % ranks else ("num_key_value_heads", kv_heads)
    fitting = ", ".join(str(count) for count in range(1, 17) if divides(count))
    return f"{key} is {value}, which tensor_parallel {ranks} does not divide; use one of {fitting}"
