"""Who may know whom: each package is imported in a fresh interpreter, and what came along is looked at."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Missing on a machine that has torch, transformers, a few small wheels and neuron's engine alone.
NOT_BARE = [
    *("django", "ninja", "pydantic_settings", "uvicorn", "celery", "fleet", "cortex_site"),
    *("neuron.api", "neuron.config", "neuron.supervisor", "neuron.text", "neuron.wire"),
]

TORCH = ["torch", "transformers"]
# All but the rule by which heads are split.
NEURON = [
    "neuron.api",
    "neuron.config",
    "neuron.engine",
    "neuron.pipe",
    "neuron.step",
    "neuron.text",
    "neuron.wire",
]

# module, or package with all its modules, to import: names that must not be there afterwards
RULES = {
    "neuron.wire": ["django", "ninja", "torch", "transformers", "fleet", "cortex_site", "msgspec"],
    "neuron.pipe": ["django", "torch", "transformers", "fleet", "cortex_site"],
    "neuron.step": ["django", "torch", "transformers", "fleet", "cortex_site"],
    "neuron.engine": [
        *NOT_BARE,
        "ext",
        "torch",
        "transformers",
        "neuron.device",
        "neuron.models",
        "neuron.worker",
    ],
    "neuron.text": ["django", "torch", "transformers", "fleet"],
    "neuron.sandbox": ["django", "torch", "transformers", "fleet", "llguidance"],
    "neuron.sandbox.__main__": ["django", "torch", "fleet", "asyncio", "pydantic", "neuron.wire"],
    "neuron.api.app": ["torch", "transformers", "fleet", "celery"],
    "neuron.cli": ["torch", "transformers", "fleet", "celery"],
    "neuron.device": [*NOT_BARE, "transformers", "neuron.engine", "neuron.models", "neuron.worker"],
    "neuron.models": [*NOT_BARE, "neuron.engine", "neuron.worker"],
    "neuron.worker": NOT_BARE,
    "fleet.snapshot": ["django", "neuron", "asyncio", "cortex_site"],
    "fleet.router": ["django", "neuron", "asyncio", "cortex_site"],
    "fleet.operations": ["django", "neuron", "asyncio", "cortex_site"],
    "fleet.placement": ["django", "asyncio", "torch"],
    "fleet.evictor": ["django", "asyncio", "torch"],
    "fleet.foreign.models": ["django", "asyncio", "torch"],
    "fleet.plausibility": ["django", "asyncio", "torch"],
    "fleet.translation": ["django", "asyncio", "torch", "httpx"],
    "fleet.gateway.app": [
        "fleet.models",
        "fleet.services",
        "torch",
        "celery",
        "neuron.api",
        "neuron.text",
    ],
    "cortex_site.http.application": ["fleet", "neuron", "celery", "torch"],
    "cortex_site.config": ["django", "fleet", *NEURON],
    "cortex_site.cli.app": ["django", "fleet", *NEURON, "torch", "celery"],
    "ext.sse": ["django", "fleet", "neuron", "cortex_site", "acp"],
}
IMPORT_TORCH = {"neuron.device", "neuron.models", "neuron.worker"}

IMPORT_ALL = """
import importlib, pkgutil, sys
module = importlib.import_module(sys.argv[1])
for found in pkgutil.walk_packages(getattr(module, "__path__", ()), module.__name__ + "."):
    importlib.import_module(found.name)
print("\\n".join(sys.modules))
"""


def modules_after(name: str) -> set[str]:
    command = [sys.executable, "-c", IMPORT_ALL, name]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.torch] if name in IMPORT_TORCH else []) for name in RULES],
)
def test_import_brings_nothing_forbidden(name):
    loaded = modules_after(name)
    present = [rule for rule in RULES[name] if rule in loaded]
    assert not present, f"importing {name} imports {present}"


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def sources(package: str):
    return [path for path in (ROOT / package).rglob("*.py") if "node_modules" not in path.parts]


def offenders(package: str, allowed) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources(package)
        for name in sorted(imports_of(path))
        if not allowed(path, name)
    ]


def test_fleet_imports_of_neuron_only_the_wire():
    def allowed(path, name):
        return name.split(".")[0] != "neuron" or name == "neuron" or name.startswith("neuron.wire")

    assert not offenders("fleet", allowed)


def test_neuron_never_imports_fleet():
    assert not offenders("neuron", lambda path, name: name.split(".")[0] not in {"fleet", "celery"})


def test_torch_lives_in_device_and_models():
    def allowed(path, name):
        at_home = {"device", "models"} & set(path.relative_to(ROOT).parts)
        return name.split(".")[0] not in {"torch", "transformers"} or bool(at_home)

    assert not offenders("neuron", allowed)
    for package in ("fleet", "cortex_site", "ext"):
        assert not offenders(package, lambda path, name: name.split(".")[0] not in {"torch", "transformers"})


def test_engine_and_device_meet_in_step_only():
    assert not offenders("neuron/engine", lambda path, name: not name.startswith("neuron.device"))
    assert not offenders("neuron/device", lambda path, name: not name.startswith("neuron.engine"))


def test_the_engine_imports_only_what_a_bare_machine_has():
    """Inside functions too. Only the worker's main asks for `cortex_site`, whose log format is optional."""
    wheels = {"llguidance", "msgspec", "PIL", "safetensors", "tokenizers", "torch", "transformers"}
    wheels.add("regex")  # transformers needs it
    ours = {"neuron.device", "neuron.engine", "neuron.models", "neuron.pipe", "neuron.step", "neuron.worker"}
    ours |= {"neuron.fair_queue", "neuron.prctl", "neuron.segment", "neuron.split_heads"}

    def allowed(path, name):
        top = name.partition(".")[0]
        if top == "neuron":
            return name in ours or ".".join(name.split(".")[:2]) in ours
        if top == "cortex_site":
            return path.name == "__main__.py"
        if top == "ext":  # what was built, which may be nothing
            return bool({"device", "models"} & set(path.relative_to(ROOT).parts))
        if top == "triton":  # which torch for CUDA brings along
            return "cuda" in path.parts
        return top in wheels or top in sys.stdlib_module_names

    for package in ("neuron/engine", "neuron/device", "neuron/models", "neuron/worker"):
        assert not offenders(package, allowed)


def test_gateway_never_imports_models():
    assert not offenders("fleet/gateway", lambda path, name: not name.startswith("fleet.models"))


def test_acp_imports_nothing_of_the_rest():
    ours = {"cortex_site", "fleet", "neuron", "ext", "django", "torch"}
    assert not offenders("acp/helexa_acp", lambda path, name: name.split(".")[0] not in ours)


def test_ext_imports_nothing_of_ours():
    ours = {"cortex_site", "fleet", "neuron", "helexa_acp"}
    assert not offenders("ext", lambda path, name: name.split(".")[0] not in ours)
