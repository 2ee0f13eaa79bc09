from __future__ import annotations

from fleet.admin.audit import AuditEntryAdmin
from fleet.admin.batch import BatchAdmin, StoredFileAdmin
from fleet.admin.join import JoinTokenAdmin
from fleet.admin.key import ApiKeyAdmin
from fleet.admin.metric import RequestMetricAdmin
from fleet.admin.node import DeviceAdmin, NodeAdmin
from fleet.admin.operation import OperationAdmin
from fleet.admin.placement import PlacementAdmin
from fleet.admin.profile import AliasAdmin, ModelProfileAdmin
from fleet.admin.schedule import ScheduleAdmin
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
    "ScheduleAdmin",
    "StoredFileAdmin",
    "UsageRollupAdmin",
]
