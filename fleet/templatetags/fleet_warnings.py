from __future__ import annotations

from django import template

from fleet.services.settings_warnings import found

register = template.Library()


@register.simple_tag
def settings_warnings() -> list[str]:
    """What the settings files say that cannot be."""
    return found()
