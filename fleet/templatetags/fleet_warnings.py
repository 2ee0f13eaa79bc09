from __future__ import annotations

from django import template

from fleet.services import contradictions

register = template.Library()


@register.simple_tag
def settings_warnings() -> list[str]:
    """What the settings files say that cannot be."""
    return contradictions.found()
