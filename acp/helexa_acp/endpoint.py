"""One `[[endpoints]]` table of the configuration: its keys, their types, and which need each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

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


class EndpointError(Exception):
    """The table describes no usable endpoint. The message names the key."""


def parse_endpoint(entry: dict[str, Any], env: Mapping[str, str]) -> tuple[Endpoint, list[str]]:
    """Return the endpoint and a note for each key that is ignored. Raises EndpointError."""
    notes = [f"unknown key {key!r} is ignored" for key in sorted(entry.keys() - _KEYS.keys())]
    values = {key: check(key, entry[key]) for key, check in _KEYS.items() if key in entry}
    key = values.pop("api_key", None)
    variable = values.pop("api_key_env", None)
    if variable and not key:
        key = env.get(variable)
        if not key:
            raise EndpointError(f"api_key_env: the environment has no variable {variable!r}")
    if values.get("wire_api") == "scripted":
        if not values.get("script"):
            raise EndpointError("script: a scripted endpoint needs the path of its script")
        values.setdefault("base_url", "http://scripted.invalid/v1")
    if "base_url" not in values:
        raise EndpointError("base_url: is missing")
    return Endpoint(**values, api_key=key or None), notes


def _string(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise EndpointError(f"{key}: must be a string, not {type(value).__name__}")
    return value


def _url(key: str, value: Any) -> str:
    problem = url_problem(_string(key, value))
    if problem:
        raise EndpointError(f"{key}: {problem}")
    return str(value)


def _wire(key: str, value: Any) -> str:
    if value not in WIRES:
        raise EndpointError(f"{key}: {value!r} is none of {', '.join(WIRES)}")
    return str(value)


def _positive_int(key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise EndpointError(f"{key}: must be a positive whole number, not {value!r}")
    return value


def _positive_number(key: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
        raise EndpointError(f"{key}: must be a positive number, not {value!r}")
    return float(value)


def _bool(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise EndpointError(f"{key}: must be true or false, not {value!r}")
    return value


def _strings(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise EndpointError(f"{key}: must be a list of strings")
    return tuple(value)


def _selectors(key: str, value: Any) -> tuple[str, ...]:
    selectors = _strings(key, value)
    if not all(selector.strip() for selector in selectors):
        raise EndpointError(f"{key}: a selector is empty")
    return selectors


def _price(key: str, value: Any) -> Price:
    if not isinstance(value, dict):
        raise EndpointError(f"{key}: must be a table with input and output per million tokens")
    unknown = value.keys() - {"input", "output", "cached_input", "currency"}
    if unknown:
        raise EndpointError(f"{key}: unknown key {min(unknown)!r}")
    currency = _string(f"{key}.currency", value.get("currency", "USD"))
    if len(currency) != 3 or not currency.isascii() or not currency.isupper():
        raise EndpointError(f"{key}.currency: must be an ISO 4217 code such as USD, not {currency!r}")
    amounts = {name: _amount(f"{key}.{name}", value[name]) for name in value.keys() - {"currency"}}
    return Price(**amounts, currency=currency)


def _amount(key: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
        raise EndpointError(f"{key}: must be a number that is not negative, not {value!r}")
    return float(value)


_KEYS: dict[str, Callable[[str, Any], Any]] = {
    "name": _string,
    "base_url": _url,
    "wire_api": _wire,
    "default_model": _string,
    "api_key": _string,
    "api_key_env": _string,
    "max_tokens": _positive_int,
    "context_window": _positive_int,
    "fallback": _selectors,
    "price": _price,
    "reasoning_efforts": _strings,
    "images": _bool,
    "text_tools": _bool,
    "first_byte_timeout_s": _positive_number,
    "idle_timeout_s": _positive_number,
    "script": _string,
}


def url_problem(url: str) -> str | None:
    """Return what is wrong with a base URL, or None if it can be used."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid = False
    return None if valid else f"must be an http or https URL with a host, not {url!r}"


def join_url(base_url: str, path: str) -> str:
    """Return `{base_url}/{path}`, whether or not the base ends with a slash."""
    return f"{base_url.rstrip('/')}/{path}"
