"""Parts that the fleet's admin pages share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from fleet.operations import OperationView
from fleet.permissions import asker, may_operate
from fleet.services import audit
from neuron.wire import ApiError

MANY_MB = 10_240
UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def age(moment: datetime | None) -> str:
    """The time since then, such as `3 min`, in the largest unit of which there is one."""
    if moment is None:
        return "–"
    seconds = max(0, int((timezone.now() - moment).total_seconds()))
    return next((f"{seconds // size} {unit}" for size, unit in UNITS if seconds >= size), "now")


def seconds(value: float | None) -> str:
    """A duration such as `1.25 s` or `3.1 ms`."""
    if value is None:
        return "–"
    if 0 < value < 0.1:
        return f"{1000 * value:.1f} ms"
    return f"{value:.2f} s"


def called(words: str, name: str) -> Callable[[Any], Any]:
    """Return a row's field under a name for people, for lists and pages."""

    def field(row: Any) -> Any:
        return getattr(row, name)

    field.__name__ = name  # of the column's class
    shown: Callable[[Any], Any] = admin.display(description=words, ordering=name)(field)
    return shown


def memory_bar(used_mb: int, total_mb: int) -> SafeString:
    """A bar, and the same in words: in GiB from `MANY_MB` on, with the MiB where the pointer rests."""
    exact = f"{used_mb:,} of {total_mb:,} MiB"
    text = exact if total_mb < MANY_MB else f"{used_mb / 1024:,.0f} of {total_mb / 1024:,.0f} GiB"
    bar = '<progress max="{}" value="{}" title="{}"></progress> <span class="amount" title="{}">{}</span>'
    return format_html(bar, max(total_mb, 1), used_mb, exact, exact, text)


def origin(request: HttpRequest) -> dict[str, Any]:
    """Who asks and why, as arguments for the verbs that actions call."""
    return {"requested_by": asker(request), "reason": "admin"}


def start_each(
    page: admin.ModelAdmin, request: HttpRequest, starts: Iterable[Callable[[], OperationView]]
) -> None:
    """Start operations, and show for each what was started or why it was not."""
    for start in starts:
        try:
            operation = start()
        except ApiError as error:
            page.message_user(request, error.message, messages.ERROR)
        else:
            text = f"{operation.subject}: operation #{operation.id} is {operation.state}"
            page.message_user(request, text, messages.SUCCESS)


def do_each(
    page: admin.ModelAdmin, request: HttpRequest, verbs: Iterable[Callable[[], None]], done: str
) -> None:
    """Call verbs that start no operation, and show how many were `done` and why others were not."""
    count = 0
    for verb in verbs:
        try:
            verb()
        except ApiError as error:
            page.message_user(request, error.message, messages.ERROR)
        else:
            count += 1
    if count:
        page.message_user(request, f"{done}: {count}", messages.SUCCESS)


class Operates:
    """A page with actions for those who may start operations."""

    def has_operate_permission(self, request: Any) -> bool:
        return may_operate(request)


class ReadOnlyAdmin(admin.ModelAdmin):
    """A page of rows that only the fleet writes."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ConfiguredAdmin(admin.ModelAdmin):
    """A page of configuration: changes are audited, and rows that a settings file owns are read-only."""

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        self._audit(request, "add", obj, [])
        return super().log_addition(request, obj, message)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        self._audit(request, "change", obj, message)
        return super().log_change(request, obj, message)

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        for obj in queryset:
            self._audit(request, "delete", obj, [])
        return super().log_deletions(request, queryset)

    def _audit(self, request: HttpRequest, action: str, obj: Any, message: Any) -> None:
        """Log the names of the changed fields, never their values: some are secrets."""
        fields = [name for part in message for name in part.get("changed", {}).get("fields", [])]
        target = f"{obj._meta.verbose_name} {obj}"  # noqa: SLF001 - Django documents `_meta`
        audit.note(asker(request), action, target, "admin", fields=fields)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return not (obj and obj.from_file) and bool(super().has_change_permission(request, obj))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return not (obj and obj.from_file) and bool(super().has_delete_permission(request, obj))
