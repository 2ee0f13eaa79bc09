from __future__ import annotations

from django.contrib import admin
from django.urls import path
from django.views.generic import RedirectView

from fleet.admin.add_model import add_model
from fleet.admin.live import live
from fleet.admin.log_page import log_lines, logs
from fleet.admin.metric import explained
from fleet.admin.model_page import model_page
from fleet.admin.playground import playground, playground_api
from fleet.admin.traffic import traffic
from fleet.admin.usage_page import own_usage, usage
from fleet.api import api

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/fleet/live/", admin.site.admin_view(live), name="fleet-live"),
    path("admin/fleet/traffic/", admin.site.admin_view(traffic), name="fleet-traffic"),
    path("admin/fleet/usage/", admin.site.admin_view(usage), name="fleet-usage"),
    path("admin/fleet/explained/<str:request_id>/", admin.site.admin_view(explained), name="fleet-explained"),
    path("admin/fleet/logs/", admin.site.admin_view(logs), name="fleet-logs"),
    path("admin/fleet/logs/lines/", admin.site.admin_view(log_lines), name="fleet-log-lines"),
    path("admin/fleet/add-model/", admin.site.admin_view(add_model), name="fleet-add-model"),
    path("admin/fleet/model/<path:model>/", admin.site.admin_view(model_page), name="fleet-model"),
    path("usage/", own_usage, name="own-usage"),
    path("admin/fleet/playground/", admin.site.admin_view(playground), name="fleet-playground"),
    path("admin/fleet/playground/v1/<path:path>", playground_api, name="fleet-playground-api"),
    path("admin/", admin.site.urls),
    path("api/", api.urls),
]
