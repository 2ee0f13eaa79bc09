from __future__ import annotations

from django.contrib import admin
from django.urls import path
from django.views.generic import RedirectView

from fleet.admin.live import live
from fleet.api import api

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/fleet/live/", admin.site.admin_view(live), name="fleet-live"),
    path("admin/", admin.site.urls),
    path("api/", api.urls),
]
