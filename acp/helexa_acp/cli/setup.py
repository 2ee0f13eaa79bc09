"""`helexa-acp setup`: asks for one endpoint and writes the configuration file.

Editors run it too, as the agent's sign-in in a terminal.
"""

from __future__ import annotations

import getpass
import json
import os
import sys

from helexa_acp.config import DEFAULT_BASE_URL, config_home, load_config
from helexa_acp.config_values import url_problem
from helexa_acp.endpoint import WIRES


def main(argv: list[str]) -> int:
    del argv
    path = config_home(os.environ) / "config.toml"
    if path.exists():
        sys.stdout.write(f"{path} exists; change it with an editor. Its endpoints:\n")
        sys.stdout.write("".join(f"  {endpoint.name}\n" for endpoint in load_config().endpoints))
        return 0
    base_url = _ask("Base URL, as a rule one that ends in /v1", DEFAULT_BASE_URL)
    if problem := url_problem(base_url):
        sys.stderr.write(f"base_url: {problem}\n")
        return 2
    wire = _ask(f"Wire ({', '.join(WIRES[:3])})", WIRES[0])
    if wire not in WIRES:
        sys.stderr.write(f"wire_api: {wire!r} is none of {', '.join(WIRES)}\n")
        return 2
    model = _ask("Default model, or empty for the first that the endpoint lists", "")
    key = getpass.getpass("API key, or empty for none (not shown): ").strip()
    entries = {
        "name": "default",
        "base_url": base_url,
        "wire_api": wire,
        "default_model": model,
        "api_key": key,
    }
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in entries.items() if value]
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write("[[endpoints]]\n" + "\n".join(lines) + "\n")
    sys.stdout.write(f"{path} is written. `helexa-acp doctor` checks it.\n")
    return 0


def _ask(question: str, default: str) -> str:
    sys.stdout.write(f"{question}{f' [{default}]' if default else ''}: ")
    sys.stdout.flush()
    return sys.stdin.readline().strip() or default
