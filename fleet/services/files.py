"""Clients' files: rows in the database, bytes below the state directory. The quota is of all together."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.files.uploadhandler import TemporaryFileUploadHandler
from django.db.models import Sum
from django.http.multipartparser import MultiPartParser, MultiPartParserError
from django.utils import timezone

from cortex_site.config import current
from fleet.models import StoredFile
from fleet.pages import page_of
from neuron.wire import ApiError

Json = dict[str, Any]

PURPOSES = {"batch", "user_data", "assistants", "vision", "fine-tune", "evals"}
MAX_PAGE = 10_000


def create(owner: str, content_type: str, body: bytes) -> Json:
    """Store the upload in a multipart body, and return the file. Raises `ApiError`."""
    fields, upload = _parse(content_type, body)
    purpose = fields.get("purpose", "")
    if purpose not in PURPOSES:
        raise ApiError(
            400, "invalid_value", f"purpose: one of {', '.join(sorted(PURPOSES))}.", param="purpose"
        )
    if upload is None:
        raise ApiError(400, "missing_field", "This field is required.", param="file")
    _check_room(upload.size)
    ident = new_id("file")
    with _writing(path_of(ident)) as stream:
        for chunk in upload.chunks():
            stream.write(chunk)
    return view(register(ident, owner, str(upload.name)[:255], purpose))


def register(ident: str, owner: str, filename: str, purpose: str) -> StoredFile:
    """The row of a file whose bytes are there."""
    lifetime = timedelta(seconds=current().batches.file_ttl_s)
    size = path_of(ident).stat().st_size
    fields = {"owner": owner, "filename": filename, "purpose": purpose, "bytes": size}
    fields["expires_at"] = timezone.now() + lifetime
    row: StoredFile = StoredFile.objects.update_or_create(id=ident, defaults=fields)[0]
    return row


def find(owner: str, ident: str) -> StoredFile:
    """Raises `ApiError` 404, also for another owner's file and an expired one."""
    valid = StoredFile.objects.filter(id=ident, owner=owner, expires_at__gt=timezone.now())
    row: StoredFile | None = valid.first()
    if row is None:
        raise ApiError(404, "file_not_found", f"There is no file {ident!r}: it has expired, or was deleted.")
    return row


def content(owner: str, ident: str) -> Path:
    """Where the bytes of a file are. Raises `ApiError` 404."""
    path = path_of(find(owner, ident).id)
    if not path.is_file():
        raise ApiError(404, "file_not_found", f"The bytes of {ident!r} are not on this host.")
    return path


def delete(owner: str, ident: str) -> Json:
    _remove(find(owner, ident))
    return {"id": ident, "object": "file", "deleted": True}


def listed(owner: str, purpose: str | None, after: str | None, limit: int, order: str) -> Json:
    """A page of an owner's files. Raises `ApiError` 400 where `after` is none of them."""
    rows = StoredFile.objects.filter(owner=owner, expires_at__gt=timezone.now())
    if purpose:
        rows = rows.filter(purpose=purpose)
    names = ("-created_at", "-id") if order == "desc" else ("created_at", "id")
    return page_of([view(row) for row in rows.order_by(*names)[:MAX_PAGE]], after, limit)


def prune() -> int:
    """Remove files that have expired, and return how many."""
    rows = list(StoredFile.objects.filter(expires_at__lte=timezone.now()))
    for row in rows:
        _remove(row)
    return len(rows)


def view(row: StoredFile) -> Json:
    return {
        "id": row.id,
        "object": "file",
        "bytes": row.bytes,
        "created_at": int(row.created_at.timestamp()),
        "expires_at": int(row.expires_at.timestamp()),
        "filename": row.filename,
        "purpose": row.purpose,
        "status": "processed",
    }


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"


def path_of(ident: str) -> Path:
    folder: Path = settings.HOME / "files"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / ident


@contextmanager
def _writing(path: Path) -> Iterator[Any]:
    """A file that is there whole or not at all, for its owner's eyes alone."""
    part = path.with_suffix(".part")
    try:
        with os.fdopen(os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as stream:
            yield stream
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _remove(row: StoredFile) -> None:
    path_of(row.id).unlink(missing_ok=True)
    row.delete()


def _check_room(size: int) -> None:
    most = current().batches.max_total_bytes
    held = StoredFile.objects.aggregate(held=Sum("bytes"))["held"] or 0
    if held + size > most:
        message = f"Files take {held} of {most} bytes (batches.max_total_bytes); delete some, or wait."
        raise ApiError(413, "storage_full", message, param="file")


def _parse(content_type: str, body: bytes) -> tuple[Json, Any]:
    """The fields and the file of a multipart body."""
    meta = {"CONTENT_TYPE": content_type, "CONTENT_LENGTH": len(body)}
    try:
        fields, files = MultiPartParser(meta, BytesIO(body), [TemporaryFileUploadHandler()]).parse()
    except MultiPartParserError as error:
        message = f"Expected multipart/form-data with `file` and `purpose`: {error}"
        raise ApiError(400, "invalid_multipart", message) from None
    return fields.dict(), files.get("file")
