"""What `models.toml` says that the files or the fleet contradict, for the admin and the operator API."""

from __future__ import annotations

from cortex_site import contradictions
from cortex_site.config import current, load_catalogue
from cortex_site.contradictions import Host
from cortex_site.settings_file import ConfigError
from fleet.models import Node


def found() -> list[str]:
    """One line each, as the files are now; a file that could not be loaded again says why."""
    config = current()
    try:
        catalogue = load_catalogue(config)
    except ConfigError as error:
        return [f"{line}; it is not used before that is mended" for line in error.lines]
    return contradictions.warnings(config, catalogue, _hosts())


def _hosts() -> list[Host]:
    return [
        Host(
            name=node.name,
            foreign=node.is_foreign,
            devices_mb=tuple(device.memory_total_mb for device in node.devices.all()),
            harnesses=frozenset(node.harnesses),
        )
        for node in Node.objects.prefetch_related("devices")
    ]
