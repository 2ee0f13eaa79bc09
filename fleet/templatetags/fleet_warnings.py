from __future__ import annotations

from django import template

from fleet.services.settings_warnings import found

register = template.Library()


@register.simple_tag
def settings_warnings() -> list[str]:
    """Contradictions between the settings files and the fleet, one line each."""
    return found()
