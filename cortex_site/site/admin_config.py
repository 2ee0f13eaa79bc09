from __future__ import annotations

from django.contrib.admin.apps import AdminConfig


class FleetAdminConfig(AdminConfig):
    """Django's admin with the fleet's home page."""

    default_site = "cortex_site.site.admin_site.FleetAdminSite"
