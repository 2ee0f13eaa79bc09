from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.contrib.auth.signals import user_logged_out
from django.db.models.signals import post_delete, post_save


class FleetConfig(AppConfig):
    name = "fleet"
    verbose_name = "Fleet"

    def ready(self) -> None:
        from fleet.models import Alias, ApiKey, ModelProfile, Node  # noqa: PLC0415 - the registry is ready now

        for model in (Node, ModelProfile, Alias, ApiKey):
            post_save.connect(_configuration_changed, sender=model)
            post_delete.connect(_configuration_changed, sender=model)
        user_logged_out.connect(_end_session_key)


def _configuration_changed(**_: Any) -> None:
    from fleet.models import ConfigurationVersion  # noqa: PLC0415 - the registry is ready now

    ConfigurationVersion.bump()


def _end_session_key(request: Any, **_: Any) -> None:
    from fleet.services import session_keys  # noqa: PLC0415 - the registry is ready now

    session_keys.end(request.session)
