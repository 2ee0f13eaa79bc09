"""Which room may import which. A module belongs to the room with the longest name that begins its own."""

from __future__ import annotations

import ast

import pytest

from tests.architecture.tree import imports, modules, parsed, reached

EVERYTHING = {"cortex_site", "fleet", "neuron.wire", "ext"}
DECISIONS = {  # pure: values in, values out
    "fleet.snapshot",
    "fleet.router",
    "fleet.affinity",
    "fleet.breaker",
    "fleet.operations",
    "fleet.placement",
    "fleet.evictor",
    "fleet.key_limits",
    "fleet.records",
    "fleet.plausibility",
    "fleet.foreign",
    "fleet.translation",
}
# Room: the rooms that it may import beside itself. Names stand for everything below them.
ROOMS: dict[str, set[str]] = {
    "ext": set(),
    "cortex_site": {"cortex_site.cli"},
    "cortex_site.base": set(),
    "cortex_site.http": {"cortex_site.base", "ext"},
    "cortex_site.config": {"cortex_site.base", "neuron.split_heads"},
    "cortex_site.processes": {"cortex_site.base", "cortex_site.config"},
    "cortex_site.site": EVERYTHING,
    "cortex_site.cli": EVERYTHING,
    **dict.fromkeys(sorted(DECISIONS), DECISIONS | {"neuron.wire", "ext", "cortex_site.base.unread"}),
    "fleet.gateway": DECISIONS
    | {
        "fleet.announcements",
        "fleet.batches",
        "fleet.pages",
        "cortex_site.base",
        "cortex_site.http",
        "cortex_site.config",
        "ext",
        "neuron.wire",
    },
    "fleet": {"fleet", "cortex_site.base", "cortex_site.config", "neuron.wire"},
    "neuron.split_heads": set(),
    "neuron.wire": set(),
    "neuron.pipe": set(),
    "neuron.generation": {"neuron.pipe"},
    "neuron.text": set(),
    "neuron.fair_queue": set(),
    "neuron.prctl": set(),
    "neuron.sandbox": {"neuron.config", "neuron.fair_queue", "neuron.prctl", "neuron.wire"},
    "neuron.templates": {"neuron.config", "neuron.sandbox", "neuron.text"},
    # The seam for engines knows none of them.
    "neuron.harness": {
        *("neuron.config", "neuron.generation", "neuron.pipe"),
        *("neuron.templates", "neuron.text", "neuron.wire"),
    },
    "neuron.registry": {"neuron.config", "neuron.harness", "neuron.wire"},
    "neuron": {"neuron", "cortex_site.base", "cortex_site.http", "ext"},
    "helexa_acp": set(),
}
# A process's entry point puts rooms together that otherwise do not know each other.
ENTRIES = {"fleet.gateway.worker": {"fleet.control_plane", "fleet.services.records"}}


def room_of(module: str, rooms=ROOMS) -> str:
    return max((room for room in rooms if is_below(module, room)), key=len)


def is_below(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room):
    allowed = ROOMS[room] | {room}
    strange = [
        f"{name} imports {target}"
        for name in modules()
        if room_of(name) == room
        for target in sorted(imports(name) & modules().keys() - ENTRIES.get(name, set()))
        if not any(is_below(target, place) for place in allowed)
    ]
    assert not strange


@pytest.mark.parametrize("name", [name for name in modules() if is_below(name, "fleet.gateway")])
def test_no_module_of_the_gateway_brings_the_database_along(name):
    ways = reached(name)
    brought = {target: ways[target] for target in ways if is_below(target, "fleet.models")}
    assert not brought


def test_every_entry_puts_rooms_together_inside_a_function_only():
    """At import it brings nothing along that its room does not know."""
    for name, targets in ENTRIES.items():
        at_import = {node for node in parsed(name).body if isinstance(node, ast.ImportFrom)}
        assert not targets & {f"{node.module}.{alias.name}" for node in at_import for alias in node.names}
