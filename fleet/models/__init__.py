from __future__ import annotations

from fleet.models.audit import AuditEntry
from fleet.models.batch import RequestBatch, StoredFile
from fleet.models.join import JoinToken
from fleet.models.key import ApiKey
from fleet.models.metric import RequestMetric
from fleet.models.node import Device, Node
from fleet.models.operation import Operation
from fleet.models.placement import IllegalTransitionError, Placement
from fleet.models.profile import Alias, ModelProfile
from fleet.models.traffic import TrafficSample
from fleet.models.usage import UsageDay, UsageRollup
from fleet.models.version import ConfigurationVersion

__all__ = [
    "Alias",
    "ApiKey",
    "AuditEntry",
    "ConfigurationVersion",
    "Device",
    "IllegalTransitionError",
    "JoinToken",
    "ModelProfile",
    "Node",
    "Operation",
    "Placement",
    "RequestBatch",
    "RequestMetric",
    "StoredFile",
    "TrafficSample",
    "UsageDay",
    "UsageRollup",
]
