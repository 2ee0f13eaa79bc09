"""Carries batches out: checks their files, sends their requests to the gateway, and writes the answers down.

Each run works for a slice of time and gives the batch back, so that batches share the workers. Requests go
through the gateway as their owner's, with the lowest priority. An answer is a line on disk before it counts:
whoever goes on after a kill repeats only what was under way.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import ssl
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from cortex_site.base.addresses import local_url
from cortex_site.config import current
from fleet.batches import ACTIVE, BatchStatus, token_of
from fleet.models import RequestBatch
from fleet.services import batches, files
from fleet.services.batch_lines import BatchFileError, BatchLine, read_lines
from neuron.wire import ApiError

log = logging.getLogger("cortex.batches")

Json = dict[str, Any]

LOOK_S = 1.0  # between looks whether a batch was cancelled
TIMEOUT_S = 3600.0  # of one request
MAX_PAUSE_S = 60.0
TRIES = 10  # of a request that is refused for now
_FOR_NOW = {408, 409, 429, 502, 503, 504}


class _LostError(Exception):
    """Another worker has the batch now, or it is being cancelled."""


def run(ident: str, gateway: str | None = None) -> None:
    """Go on with a batch for a slice of time, unless another worker has it or it is over.

    `gateway` is the URL of one; by default this host's.
    """
    row = _take(ident)
    if row is None:
        return
    try:
        _Run(row, gateway or _gateway()).go_on()
    except _LostError:
        log.info("batch is left to another", extra={"batch": ident})


def reconcile() -> None:
    """Announce batches that no worker has."""
    silent = timezone.now() - timedelta(seconds=settings.LEASE_S)
    lost = RequestBatch.objects.filter(status__in=ACTIVE).filter(
        Q(heartbeat_at=None) | Q(heartbeat_at__lt=silent)
    )
    for ident in lost.values_list("id", flat=True):
        batches.announce(ident)


def _take(ident: str) -> RequestBatch | None:
    now = timezone.now()
    silent = now - timedelta(seconds=settings.LEASE_S)
    free = RequestBatch.objects.filter(id=ident, status__in=ACTIVE).filter(
        Q(lease=None) | Q(heartbeat_at__lt=silent)
    )
    if not free.update(lease=uuid.uuid4(), heartbeat_at=now):
        return None
    row: RequestBatch = RequestBatch.objects.get(id=ident)
    return row


class _Run:
    """A slice of a batch. `_LostError` ends it wherever it is."""

    def __init__(self, row: RequestBatch, gateway: str) -> None:
        self._row = row
        self._gateway = gateway
        self._mine = RequestBatch.objects.filter(id=row.id, lease=row.lease)
        self._output = _Answers(files.path_of(f"{row.id}.output"))
        self._errors = _Answers(files.path_of(f"{row.id}.errors"))

    def go_on(self) -> None:
        row = self._row
        try:
            lines = read_lines(files.content(row.owner, row.input_file), row.endpoint)
        except ApiError as error:
            self._fail([BatchFileError(error.code, error.message)])
            return
        except BatchFileError as problem:
            self._fail([problem])
            return
        self._start(len(lines))
        left = self._unanswered(lines)
        if row.status == BatchStatus.IN_PROGRESS and not self._is_late:
            left = self._answer(left)
        self._row.refresh_from_db()
        if not left or self._row.status == BatchStatus.CANCELLING or self._is_late:
            self._finish(left)
            return
        self._mine.update(lease=None)
        batches.announce(row.id)

    def _unanswered(self, lines: list[BatchLine]) -> list[BatchLine]:
        answered = self._output.ids | self._errors.ids
        return [line for line in lines if line.custom_id not in answered]

    @property
    def _is_late(self) -> bool:
        return bool(timezone.now() >= self._row.expires_at)

    # --- requests ---

    def _answer(self, lines: list[BatchLine]) -> list[BatchLine]:
        """Send requests until the slice is over, and return what is left."""
        config = current()
        until = time.monotonic() + config.batches.slice_s
        waiting, pending = list(reversed(lines)), dict[Future[Json], BatchLine]()
        options: Json = {"base_url": self._gateway, "verify": _verify(), "timeout": TIMEOUT_S}
        with (
            httpx.Client(**options, trust_env=False) as client,
            ThreadPoolExecutor(config.batches.concurrency, thread_name_prefix="batch") as threads,
        ):
            while pending or (waiting and time.monotonic() < until):
                while waiting and len(pending) < config.batches.concurrency and time.monotonic() < until:
                    line = waiting.pop()
                    pending[threads.submit(_ask, client, self._row.owner, line, until)] = line
                done, _ = wait(pending, timeout=LOOK_S, return_when=FIRST_COMPLETED)
                postponed = [pending[future] for future in done if not self._note(pending[future], future)]
                waiting += postponed
                for future in done:
                    del pending[future]
                if not self._beat():
                    waiting.clear()
        return self._unanswered(lines)

    def _note(self, line: BatchLine, future: Future[Json]) -> bool:
        """Write an answer down; False where the request is to be sent again."""
        try:
            answer = future.result()
        except Exception as error:
            log.exception("a request of a batch broke", extra={"batch": self._row.id})
            answer = _line(line, error={"code": "internal_error", "message": type(error).__name__})
        if answer.get("again"):
            return False
        failed = answer["error"] is not None or answer["response"]["status_code"] >= 400
        (self._errors if failed else self._output).add(line.custom_id, answer)
        return True

    def _beat(self) -> bool:
        """Say that the batch is worked on, and how far it is; False once it is to end."""
        counts = {"completed": len(self._output.ids), "failed": len(self._errors.ids)}
        if not self._mine.update(heartbeat_at=timezone.now(), **counts):
            raise _LostError
        status = self._mine.values_list("status", flat=True).first()
        return status == BatchStatus.IN_PROGRESS and not self._is_late

    # --- ends ---

    def _finish(self, left: list[BatchLine]) -> None:
        row, end = self._row, BatchStatus.COMPLETED
        if row.status == BatchStatus.CANCELLING:
            end = BatchStatus.CANCELLED
        elif left:
            end = BatchStatus.EXPIRED
            error = {"code": "batch_expired", "message": "The batch ended before this request had its turn."}
            for line in left:
                self._errors.add(line.custom_id, _line(line, error=error))
        names = {"output_file": self._output, "error_file": self._errors}
        made = {field: self._register(answers, field) for field, answers in names.items() if answers.ids}
        counts = {"completed": len(self._output.ids), "failed": len(self._errors.ids)}
        self._end(end, **made, **counts)
        log.info("batch", extra={"batch": row.id, "state": end, **counts})

    def _register(self, answers: _Answers, name: str) -> str:
        """Make a file of its own of the answers, once however often this is tried."""
        ident = f"file_{self._row.id.removeprefix('batch_')}_{name.removesuffix('_file')}"
        answers.link_to(files.path_of(ident))
        files.register(
            ident, self._row.owner, f"{self._row.id}_{name.removesuffix('_file')}.jsonl", "batch_output"
        )
        return ident

    def _fail(self, problems: list[BatchFileError]) -> None:
        self._end(BatchStatus.FAILED, errors=[problem.as_json() for problem in problems])

    def _start(self, total: int) -> None:
        times = batches.reached(self._row, BatchStatus.IN_PROGRESS)
        valid = self._mine.filter(status=BatchStatus.VALIDATING)
        valid.update(status=BatchStatus.IN_PROGRESS, total=total, times=times)
        self._row.refresh_from_db()

    def _end(self, status: BatchStatus, **fields: Any) -> None:
        times = batches.reached(self._row, status)
        if not self._mine.update(status=status, lease=None, times=times, **fields):
            raise _LostError
        self._output.remove()
        self._errors.remove()


class _Answers:
    """Lines of JSON that grow; a line that a kill tore is cut off."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.ids = {json.loads(line)["custom_id"] for line in self._whole_lines()}

    def add(self, custom_id: str, answer: Json) -> None:
        with os.fdopen(os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600), "ab") as stream:
            stream.write(json.dumps(answer, ensure_ascii=False).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        self.ids.add(custom_id)

    def link_to(self, path: Path) -> None:
        """Give the file another name as well, if it has not got it yet."""
        if not path.exists():
            os.link(self._path, path)

    def remove(self) -> None:
        """Take away this name of the file."""
        self._path.unlink(missing_ok=True)

    def _whole_lines(self) -> Iterator[bytes]:
        if not self._path.exists():
            return
        with self._path.open("r+b") as stream:
            end = 0
            for line in stream:
                if not line.endswith(b"\n"):
                    stream.truncate(end)
                    return
                end += len(line)
                yield line


def _ask(client: httpx.Client, owner: str, line: BatchLine, until: float) -> Json:
    """The line of a request's answer; `again` where it is refused for now and the slice is over."""
    for number in range(TRIES):
        try:
            answer = client.post(
                line.url, content=bytes(line.body), headers={"authorization": f"Bearer {token_of(owner)}"}
            )
        except httpx.HTTPError as error:
            pause, cause = 1.0, f"The gateway did not answer: {error or type(error).__name__}."
        else:
            if answer.status_code not in _FOR_NOW:
                return _line(line, answer=answer)
            pause, cause = _pause(answer), ""
            if number + 1 == TRIES:
                return _line(line, answer=answer)
        if time.monotonic() + pause > until:
            time.sleep(max(0.0, min(pause, until - time.monotonic())))
            return {"again": True}
        time.sleep(pause)
    return _line(line, error={"code": "gateway_away", "message": cause})


def _pause(answer: httpx.Response) -> float:
    given = answer.headers.get("retry-after", "1")
    return min(float(given) if given.replace(".", "", 1).isdigit() else 1.0, MAX_PAUSE_S)


def _line(line: BatchLine, *, answer: httpx.Response | None = None, error: Json | None = None) -> Json:
    response = None
    if answer is not None:
        body = _json(answer)
        request_id = answer.headers.get("x-request-id", "")
        response = {"status_code": answer.status_code, "request_id": request_id, "body": body}
    return {
        "id": f"batch_req_{secrets.token_hex(12)}",
        "custom_id": line.custom_id,
        "response": response,
        "error": error,
    }


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return answer.text


def _gateway() -> str:
    gateway = current().gateway
    return local_url(gateway.listen, tls=gateway.speaks_tls)


def _verify() -> bool | ssl.SSLContext:
    """Whom to believe on this host: the gateway's own certificate, whatever name it has."""
    certificate = current().gateway.tls_cert
    if certificate is None:
        return True
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
