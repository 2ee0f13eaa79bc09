"""Which extras of the package are installed. Each is known by one module that nothing else brings along."""

from __future__ import annotations

from importlib.util import find_spec

SIGN = {"gateway": "celery", "postgres": "psycopg", "daemon": "tokenizers", "neuron": "torch"}


def cure(extra: str) -> str:
    """Return how to get it: from our wheel, since the package `cortex` of PyPI is another project's."""
    return f"install cortex[{extra}], or cortex[all] for everything, from the wheel (PyPI has another cortex)"


def lacking(*extras: str) -> list[str]:
    """Return a sentence with the cure for each of `extras` that is not installed."""
    return [
        f"{SIGN[extra]} is not installed: {cure(extra)}" for extra in extras if find_spec(SIGN[extra]) is None
    ]
