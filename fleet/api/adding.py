from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from ninja import Field, Router, Schema, Status

from fleet.permissions import operator
from fleet.services import adding
from fleet.services.adding import Form, PreflightReport
from neuron.wire import Download, FormatChoice, Preflight

router = Router(tags=["adding models"])


class PreflightIn(Schema):
    source: str = Field(min_length=1, max_length=500, description="A directory on nodes, or a hub id")
    node: str | None = Field(None, description="The node to ask; some are asked if absent")


class DownloadIn(Schema):
    source: str = Field(min_length=1, max_length=500)
    quant: str = Field("", max_length=200, description="A `quant` of the preflight's choices")
    node: str = Field(min_length=1)


class CancelIn(Schema):
    source: str = Field(min_length=1, max_length=500, description="As `GET /api/downloads` lists it")
    node: str = Field(min_length=1)


class FormOut(FormatChoice):
    needed_mb: int = Field(description="About what a load needs, with keys and values of 4,096 tokens")
    outlook: str = Field(description="fits, fits after eviction, busy, starting, down or infeasible")
    where: str = Field(description="The node that a load would choose and why, or why there is none")


class PreflightOut(Schema):
    found: Preflight | None
    forms: list[FormOut]
    asked: list[str] = Field(description="The nodes that were asked")
    having: list[str] = Field(description="Those that have it or can get it")
    refused: dict[str, str] = Field(description="What the others said, by node")


class DownloadOut(Download):
    node: str


@router.post("/models/preflight", response=PreflightOut)
def preflight(request: HttpRequest, payload: PreflightIn) -> Any:
    """What there is of a model and where it would fit; nothing is downloaded, loaded or stored."""
    operator(request)
    return answer_of(adding.look(payload.source, payload.node))


@router.post("/models/download", response={202: dict[str, str]})
def download(request: HttpRequest, payload: DownloadIn) -> Any:
    """Have a node bring the model's files to its disk; `GET /api/downloads` says how far it is."""
    adding.download(payload.source, payload.quant, payload.node, requested_by=operator(request))
    return Status(202, {"source": payload.source, "node": payload.node})


@router.get("/downloads", response=list[DownloadOut])
def downloads(request: HttpRequest, node: str | None = None) -> Any:
    """Downloads under way and the last ones that are over, of a node or of all healthy ones."""
    return [DownloadOut(node=name, **told.model_dump()) for name, told in adding.downloads(node)]


@router.post("/downloads/cancel", response={202: dict[str, str]})
def cancel_download(request: HttpRequest, payload: CancelIn) -> Any:
    """Have a node end a download. Files that came whole are kept: asking again fetches the others."""
    adding.cancel_download(payload.source, payload.node, requested_by=operator(request))
    return Status(202, {"source": payload.source, "node": payload.node})


def answer_of(outcome: PreflightReport) -> PreflightOut:
    return PreflightOut(
        found=outcome.found,
        forms=[_form(form) for form in outcome.forms],
        asked=outcome.asked,
        having=outcome.having,
        refused=outcome.refused,
    )


def _form(form: Form) -> FormOut:
    judged = {"needed_mb": form.needed_mb, "outlook": form.outlook, "where": form.where}
    return FormOut(**form.choice.model_dump(), **judged)
