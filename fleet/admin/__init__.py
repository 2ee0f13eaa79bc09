from __future__ import annotations

from django.contrib import admin

from fleet.admin.audit import AuditEntryAdmin
from fleet.admin.batch import BatchAdmin, StoredFileAdmin
from fleet.admin.join import JoinTokenAdmin
from fleet.admin.key import ApiKeyAdmin
from fleet.admin.metric import RequestMetricAdmin
from fleet.admin.node import DeviceAdmin, NodeAdmin
from fleet.admin.operation import OperationAdmin
from fleet.admin.placement import PlacementAdmin
from fleet.admin.profile import AliasAdmin, ModelProfileAdmin
from fleet.admin.usage import UsageRollupAdmin

__all__ = [
    "AliasAdmin",
    "ApiKeyAdmin",
    "AuditEntryAdmin",
    "BatchAdmin",
    "DeviceAdmin",
    "JoinTokenAdmin",
    "ModelProfileAdmin",
    "NodeAdmin",
    "OperationAdmin",
    "PlacementAdmin",
    "RequestMetricAdmin",
    "StoredFileAdmin",
    "UsageRollupAdmin",
]

admin.site.site_header = admin.site.site_title = "cortex"
admin.site.index_title = "Fleet"
