"""The number of the latest configuration, in a row of its own.

Whoever changes nodes, profiles, aliases or keys moves it within the same transaction, so that a data-plane
worker that compares versions never misses a change. After the commit it is told on a Redis channel as well,
which is quicker but may fail.
"""

from __future__ import annotations

from typing import Any

from django.db import models, transaction
from django.db.models import F

from fleet import announcements


class ConfigurationVersion(models.Model):
    """A single row, with id 1."""

    version = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="configuration_version_single")]

    @classmethod
    def current(cls) -> int:
        return cls.objects.filter(id=1).values_list("version", flat=True).first() or 0

    @classmethod
    def bump(cls) -> None:
        """Count one up. Call it in the transaction that changes the configuration."""
        with transaction.atomic():
            cls.objects.get_or_create(id=1)
            cls.objects.filter(id=1).update(version=F("version") + 1)
            transaction.on_commit(_announce)


class Configured(models.Model):
    """A row of the configuration: it is saved and the version counted up in one transaction.

    The version itself is moved by signals (see `fleet.apps`), so that bulk deletion counts too; facts that
    a poll observes are written with `QuerySet.update`, which moves nothing.
    """

    from_file = models.BooleanField(
        "from file",
        default=False,
        editable=False,
        help_text="A settings file owns this row: change it there.",
    )

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        with transaction.atomic():
            super().save(*args, **kwargs)


def _announce() -> None:
    announcements.publish(announcements.CONFIGURATION, ConfigurationVersion.current())
