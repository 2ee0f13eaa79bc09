"""Usage as plot, table and CSV: for staff of everything, for the holder of a key of that key."""

from __future__ import annotations

import csv
from typing import Any, cast

from django.contrib import admin
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters

from fleet.models import ApiKey
from fleet.services import keys
from fleet.services.usage_report import CHOICES, By, Report, report

DAYS = (7, 30, 90, 365)
PLOTTED = 6  # groups
SESSION_KEY = "usage_of"  # the digest of the key that signed in


def usage(request: HttpRequest) -> HttpResponse:
    """The use of all keys, by what `?by=` names."""
    made = _asked(request)
    if request.GET.get("format") == "csv":
        return _csv(made)
    budgets = keys.budgets(ApiKey.objects.filter(disabled=False).exclude(budget_tokens=None))
    context = admin.site.each_context(request) | _context(made) | {"title": "Usage", "budgets": budgets}
    return TemplateResponse(request, "admin/fleet/usage.html", context)


@never_cache
@sensitive_post_parameters("key")
def own_usage(request: HttpRequest) -> HttpResponse:
    """The use of one key, for its holder, who signs in with it."""
    if request.method == "POST":
        return _sign_in(request)
    row = _active(digest=request.session.get(SESSION_KEY, ""))
    if row is None:
        refused = "refused" in request.GET
        return TemplateResponse(request, "fleet/own_usage_sign_in.html", {"refused": refused})
    made = _asked(request, key=row)
    if request.GET.get("format") == "csv":
        return _csv(made)
    in_use = keys.usage([row]).get(row.digest) or ("not known now" if row.limits else "no limits")
    context = _context(made) | {"key": row, "in_use": in_use, "budgets": keys.budgets([row])}
    return TemplateResponse(request, "fleet/own_usage.html", context)


def _sign_in(request: HttpRequest) -> HttpResponseRedirect:
    page = reverse("own-usage")
    request.session.pop(SESSION_KEY, None)
    if "leave" in request.POST:
        return HttpResponseRedirect(page)
    row = _active(digest=keys.digest(request.POST.get("key", "").strip()))
    if row is None:
        return HttpResponseRedirect(f"{page}?refused")
    request.session.cycle_key()
    request.session[SESSION_KEY] = row.digest
    return HttpResponseRedirect(page)


def _active(*, digest: str) -> ApiKey | None:
    row: ApiKey | None = ApiKey.objects.filter(digest=digest, disabled=False).first()
    return None if row and row.expires_at and row.expires_at <= timezone.now() else row


def _asked(request: HttpRequest, *, key: ApiKey | None = None) -> Report:
    by = request.GET.get("by", "model")
    days = request.GET.get("days", "")
    number = int(days) if days.isdecimal() and int(days) in DAYS else 30
    return report(cast("By", by) if by in CHOICES else "model", number, key=str(key.name) if key else None)


def _context(made: Report) -> dict[str, Any]:
    plotted = ["tokens"] if made.by == "day" else list(made.groups)[:PLOTTED]
    series = {"tokens": _by_day(made)} if made.by == "day" else made.series(plotted)
    return {
        "report": made,
        "rows": made.groups.items(),
        "choices": CHOICES,
        "spans": DAYS,
        "span": len(made.days),
        "plot": {"days": [day.isoformat() for day in made.days], "series": series},
    }


def _by_day(made: Report) -> list[int]:
    return [used.tokens if (used := made.groups.get(str(day))) else 0 for day in made.days]


def _csv(made: Report) -> HttpResponse:
    """A line for each day and group."""
    response = HttpResponse(content_type="text/csv; charset=utf-8")
    response["content-disposition"] = f'attachment; filename="usage-by-{made.by}.csv"'
    writer = csv.writer(response)
    writer.writerow(("day", made.by, "requests", "errors", "prompt", "cached", "completion", "cost"))
    for day, name, used in made.lines():
        writer.writerow((day, _cell(name), *_numbers(used)))
    return response


def _numbers(used: Any) -> tuple[int | str, ...]:
    counts = (used.requests, used.errors, used.prompt_tokens, used.cached_tokens, used.completion_tokens)
    return (*counts, f"{used.cost:.6f}")


def _cell(name: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    return f"'{name}" if name[:1] in {"=", "+", "-", "@", "\t"} else name
