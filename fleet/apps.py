from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_delete, post_save


class FleetConfig(AppConfig):
    name = "fleet"
    verbose_name = "Fleet"

    def ready(self) -> None:
        from fleet.models import Alias, ApiKey, ModelProfile, Node  # noqa: PLC0415 - the registry is ready now

        for model in (Node, ModelProfile, Alias, ApiKey):
            post_save.connect(_configuration_changed, sender=model)
            post_delete.connect(_configuration_changed, sender=model)


def _configuration_changed(**_: Any) -> None:
    from fleet.models import ConfigurationVersion  # noqa: PLC0415 - the registry is ready now

    ConfigurationVersion.bump()
