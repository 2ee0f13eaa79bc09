from __future__ import annotations

from django.contrib import admin

from fleet.admin.base import ReadOnlyAdmin
from fleet.models import RequestBatch, StoredFile


@admin.register(RequestBatch)
class BatchAdmin(ReadOnlyAdmin):
    first_step = (
        "No batch has been sent. Upload a file of requests to /v1/files, then post it to /v1/batches."
    )
    list_display = ("id", "key", "endpoint", "status", "total", "completed", "failed", "created_at")
    list_filter = ("status", "endpoint")
    search_fields = ("id", "key")
    exclude = ("owner", "lease")


@admin.register(StoredFile)
class StoredFileAdmin(ReadOnlyAdmin):
    list_display = ("id", "filename", "purpose", "bytes", "created_at", "expires_at")
    list_filter = ("purpose",)
    search_fields = ("id", "filename")
    exclude = ("owner",)
