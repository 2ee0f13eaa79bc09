"""The schedule that beat starts with; rows that exist stay as they were set in the admin."""

from __future__ import annotations

from django_celery_beat.models import IntervalSchedule, PeriodicTask

from cortex_site.config import current


def ensure() -> None:
    """Create the entries of the default schedule that do not exist."""
    for name, task, every_s in _defaults():
        interval, _ = IntervalSchedule.objects.get_or_create(every=every_s, period=IntervalSchedule.SECONDS)
        PeriodicTask.objects.get_or_create(
            name=name,
            # a run that waited for its whole interval is dropped: the next one is due
            defaults={"task": task, "interval": interval, "expire_seconds": every_s},
        )


def _defaults() -> list[tuple[str, str, int]]:
    return [
        ("Poll the nodes", "fleet.tasks.poll", max(1, round(current().poll.interval_s))),
        ("Find lost operations", "fleet.tasks.reconcile", 5),
        ("Find batches that no worker has", "fleet.tasks.find_batches", 10),
        ("Unload idle models", "fleet.tasks.unload_idle", 30),
        ("Read models ahead that keys use at this hour", "fleet.tasks.follow_habits", 240),
        ("Load pinned models and replicas", "fleet.tasks.keep_residents", 15),
        ("Defragment devices", "fleet.tasks.defragment", 60),
        ("Sum traffic up for the home page", "fleet.tasks.sum_traffic", 30),
        ("Sum usage up", "fleet.tasks.roll_up", 300),
        ("Delete old rows", "fleet.tasks.prune", 3600),
    ]
