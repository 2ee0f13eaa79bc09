"""One `[[endpoints]]` table of the configuration: its keys, their types, and which need each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from helexa_acp.config_values import (
    BadValueError,
    boolean,
    currency,
    positive_int,
    positive_number,
    string,
    strings,
    url,
)

WIRES = ("openai-chat", "openai-responses", "anthropic-messages", "scripted")


@dataclass(frozen=True, slots=True)
class Price:
    """What an endpoint charges for a million tokens."""

    input: float = 0.0
    output: float = 0.0
    cached_input: float | None = None  # None: the same as `input`
    currency: str = "USD"


@dataclass(frozen=True, slots=True)
class Endpoint:
    name: str
    base_url: str
    wire_api: str = "openai-chat"
    default_model: str | None = None
    api_key: str | None = field(default=None, repr=False)
    max_tokens: int | None = None
    context_window: int | None = None  # tokens
    fallback: tuple[str, ...] = ()  # selectors, tried in order
    price: Price | None = None
    reasoning_efforts: tuple[str, ...] = ()
    images: bool | None = None
    text_tools: bool | None = None
    first_byte_timeout_s: float = 600.0  # long enough for a cold model to load
    idle_timeout_s: float = 120.0
    script: str | None = None  # path of the file that a scripted endpoint answers from


def parse_endpoint(entry: dict[str, Any], env: Mapping[str, str]) -> tuple[Endpoint, list[str]]:
    """Return the endpoint and a note for each key that is ignored. Raises BadValueError."""
    notes = [f"unknown key {key!r} is ignored" for key in sorted(entry.keys() - _KEYS.keys())]
    values = {key: check(key, entry[key]) for key, check in _KEYS.items() if key in entry}
    key = values.pop("api_key", None)
    variable = values.pop("api_key_env", None)
    if variable and not key:
        key = env.get(variable)
        if not key:
            raise BadValueError(f"api_key_env: the environment has no variable {variable!r}")
    if values.get("wire_api") == "scripted":
        if not values.get("script"):
            raise BadValueError("script: a scripted endpoint needs the path of its script")
        values.setdefault("base_url", "http://scripted.invalid/v1")
    if "base_url" not in values:
        raise BadValueError("base_url: is missing")
    return Endpoint(**values, api_key=key or None), notes


def _wire(key: str, value: Any) -> str:
    if value not in WIRES:
        raise BadValueError(f"{key}: {value!r} is none of {', '.join(WIRES)}")
    return str(value)


def _selectors(key: str, value: Any) -> tuple[str, ...]:
    selectors = strings(key, value)
    if not all(selector.strip() for selector in selectors):
        raise BadValueError(f"{key}: a selector is empty")
    return selectors


def _price(key: str, value: Any) -> Price:
    if not isinstance(value, dict):
        raise BadValueError(f"{key}: must be a table with input and output per million tokens")
    unknown = value.keys() - {"input", "output", "cached_input", "currency"}
    if unknown:
        raise BadValueError(f"{key}: unknown key {min(unknown)!r}")
    code = currency(f"{key}.currency", value.get("currency", "USD"))
    amounts = {name: _amount(f"{key}.{name}", value[name]) for name in value.keys() - {"currency"}}
    return Price(**amounts, currency=code)


def _amount(key: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
        raise BadValueError(f"{key}: must be a number that is not negative, not {value!r}")
    return float(value)


_KEYS: dict[str, Callable[[str, Any], Any]] = {
    "name": string,
    "base_url": url,
    "wire_api": _wire,
    "default_model": string,
    "api_key": string,
    "api_key_env": string,
    "max_tokens": positive_int,
    "context_window": positive_int,
    "fallback": _selectors,
    "price": _price,
    "reasoning_efforts": strings,
    "images": boolean,
    "text_tools": boolean,
    "first_byte_timeout_s": positive_number,
    "idle_timeout_s": positive_number,
    "script": string,
}


def join_url(base_url: str, path: str) -> str:
    """Return `{base_url}/{path}`, whether or not the base ends with a slash."""
    return f"{base_url.rstrip('/')}/{path}"
