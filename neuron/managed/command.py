"""How a model's server is started: its command line and environment. Pure."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from neuron.config import ManagedEngineSettings
from neuron.managed.engine import Engine
from neuron.wire import ApiError, DeviceInfo, ModelSpec

_OURS = "NEURON_"  # variables that hold this node's secrets, among others


@dataclass(frozen=True, slots=True)
class Launch:
    """All that a start of a server needs."""

    model: str  # its name
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    port: int
    secret: str = field(repr=False)  # that requests must send; empty: none


class LaunchPlace(NamedTuple):
    """Where a model's files are, and where its server is to run and listen."""

    path: Path
    devices: Sequence[DeviceInfo]
    port: int


def check_spec(
    engine: Engine, settings: ManagedEngineSettings, spec: ModelSpec, devices: Sequence[DeviceInfo]
) -> None:
    """Raise `ApiError` 400 for an option that a model may not set, a text that would be an option, too much
    memory."""
    for param, given in (("model_id", spec.model_id), ("quant", spec.quant or "")):
        _check_value(param, given)
    allowed = engine.options | set(settings.options)
    for name, value in spec.options.items():
        param = f"options.{name}"
        if name not in allowed:
            message = (
                f"{param}: models may not set it; the owner of this host allows it in "
                f"`engines.{engine.name}.options`."
            )
            raise ApiError(400, "unsupported_parameter", message, param=param)
        _check_value(param, value)
    _fraction(spec.memory_mb, devices)


def _check_value(param: str, value: object) -> None:
    """Raise `ApiError` 400 for a text that a server would take for an option."""
    if isinstance(value, str) and value.startswith("-"):
        raise ApiError(400, "invalid_request_body", f"{param}: begins with a dash.", param=param)


def launch(
    engine: Engine, settings: ManagedEngineSettings, spec: ModelSpec, place: LaunchPlace, *, sleeps: bool
) -> Launch:
    """The launch of a server that is able to sleep or not. Raises `ApiError` 400."""
    check_spec(engine, settings, spec, place.devices)
    words = [*(settings.command or engine.command), *engine.arguments]
    if len(place.devices) > 1:
        words += engine.split
    if spec.memory_mb is not None:
        words += engine.share
    if spec.quant:
        words += engine.quant
    if sleeps and engine.sleep:
        words += engine.sleep.arguments
    values = {
        "model": str(place.path),
        "name": spec.model_id,
        "port": str(place.port),
        "devices": str(len(place.devices)),
        "fraction": _fraction(spec.memory_mb, place.devices),
        "quant": spec.quant or "",
    }
    argv = [_filled(word, values) for word in words]
    for name, value in spec.options.items():
        argv += _option(name, value)
    secret = secrets.token_urlsafe(24) if engine.key_variable else ""
    environment = _environment(engine, settings, place.devices, secret, sleeps=sleeps)
    return Launch(spec.model_id, (*argv, *settings.arguments), environment, place.port, secret)


def _filled(word: str, values: Mapping[str, str]) -> str:
    """The word, or the value that it stands for; a value is never read as a word again."""
    return values[word[1:-1]] if word[:1] == "{" and word[-1:] == "}" and word[1:-1] in values else word


def _option(name: str, value: str | float | bool) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}"] if value else []
    return [f"--{name}", str(value)]


def _fraction(memory_mb: int | None, devices: Sequence[DeviceInfo]) -> str:
    smallest = min(device.memory_total_mb for device in devices)
    if memory_mb is None or smallest <= 0:
        return ""
    if memory_mb > smallest:
        message = f"memory_mb: {memory_mb} MiB of a device that has {smallest}."
        raise ApiError(400, "insufficient_memory", message, param="memory_mb")
    return f"{memory_mb / smallest:.4f}"


def _environment(
    engine: Engine,
    settings: ManagedEngineSettings,
    devices: Sequence[DeviceInfo],
    secret: str,
    *,
    sleeps: bool,
) -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    found |= dict(engine.environment)
    if sleeps and engine.sleep:
        found |= dict(engine.sleep.environment)
    if all(device.kind == "cuda" for device in devices):
        found |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": _visible(found, devices)}
    if secret:
        found[engine.key_variable] = secret
    return found | settings.environment


def _visible(environment: Mapping[str, str], devices: Sequence[DeviceInfo]) -> str:
    """The devices by the names that CUDA_VISIBLE_DEVICES gave this process, where it gave some."""
    given = environment.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else None
    return ",".join(names[device.index].strip() if names else str(device.index) for device in devices)
