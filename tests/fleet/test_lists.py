"""Lists of the admin: what they say while they are empty, and how they write times."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.contrib import admin
from django.urls import reverse
from django.utils.html import escape

from fleet.models import ApiKey, AuditEntry
from fleet.services import keys
from fleet.services.keys import KeyBudget

pytestmark = pytest.mark.usefixtures("db")

WITH_A_FIRST_STEP = sorted(
    (f"{model._meta.app_label}_{model._meta.model_name}", page.first_step)
    for model, page in admin.site._registry.items()
    if hasattr(page, "first_step")
)


def page_of(staff, name: str, query: str = "") -> str:
    return staff.get(reverse(f"admin:{name}_changelist") + query).content.decode()


@pytest.mark.parametrize(("name", "first_step"), WITH_A_FIRST_STEP)
def test_an_empty_list_says_what_to_do_first(staff, name: str, first_step: str):
    assert escape(first_step) in page_of(staff, name)


def test_a_list_that_is_not_empty_does_not_nor_one_that_is_filtered(staff):
    assert "first-step" not in page_of(staff, "fleet_node", "?q=nothing")
    keys.create("k")
    assert "first-step" not in page_of(staff, "fleet_apikey")


def test_times_have_24_hours_and_seconds_and_their_zone_is_said(staff):
    AuditEntry.objects.create(
        at=datetime(2026, 3, 1, 15, 4, 5, tzinfo=UTC), who="w", action="load", target="m"
    )
    page = page_of(staff, "fleet_auditentry")
    assert "2026-03-01 15:04:05" in page
    assert "Times are UTC" in page


def test_budgets_are_told_with_what_is_left_the_shortest_first(staff):
    for name, limit in {"roomy": 1000, "none": None}.items():
        row, _ = keys.create(name)
        row.budget_tokens = limit
        row.save()
    assert keys.budgets(ApiKey.objects.all()) == [KeyBudget("roomy", 0, 1000, "month")]
    page = staff.get("/admin/fleet/usage/").content.decode()
    assert "1,000 of 1,000 tokens left this month" in page
    assert KeyBudget("k", 95, 100, "day").is_short
    assert KeyBudget("k", 120, 100, "day").left == 0
