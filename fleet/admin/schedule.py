"""The pages of django-celery-beat, cut to what a fleet needs: names, when next, and whether it is on."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.contrib import admin
from django.utils import timezone
from django_celery_beat.admin import PeriodicTaskAdmin
from django_celery_beat.models import ClockedSchedule, PeriodicTask, SolarSchedule

from fleet.admin.base import UNITS

UNUSED = ("solar", "clocked")  # fields: the kinds of schedules whose lists are not shown

for unused in (ClockedSchedule, SolarSchedule, PeriodicTask):
    admin.site.unregister(unused)


@admin.register(PeriodicTask)
class ScheduleAdmin(PeriodicTaskAdmin):
    first_step = "cortex makes its schedules when it starts; those that you delete come back then."
    change_list_template = "admin/change_list.html"
    list_display = ("name", "every", "next_run", "last_run_at", "enabled")
    list_display_links = ("name",)
    list_filter = ("enabled",)
    search_fields = ("name",)
    fieldsets = tuple(
        (title, options | {"fields": tuple(name for name in options["fields"] if name not in UNUSED)})
        for title, options in PeriodicTaskAdmin.fieldsets
    )

    @admin.display(description="when")
    def every(self, row: PeriodicTask) -> str:
        return str(row.scheduler) if row.interval is None else f"every {_length(row)}"

    @admin.display(description="next run")
    def next_run(self, row: PeriodicTask) -> datetime | str:
        """When it is due. Beat tells of its runs minutes later: an overdue one comes within its interval."""
        if not row.enabled:
            return "–"
        left: timedelta = row.schedule.remaining_estimate(row.last_run_at or row.date_changed)
        if left < timedelta():
            return "now" if row.interval is None else f"within {_length(row)}"
        due: datetime = timezone.now() + left
        return due


def _length(row: PeriodicTask) -> str:
    """The interval between two runs, such as `5 min`."""
    length = row.interval.schedule.run_every.total_seconds()
    size, unit = next((each for each in UNITS if length % each[0] == 0), (1, "s"))
    return f"{length / size:g} {unit}"
