"""Before a model is added: what nodes find of it, and where each of its forms would fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar

from django.conf import settings

from fleet import placement as placing
from fleet.models import Node
from fleet.placement import Decision, Need, NodeFacts
from fleet.services import audit, lookup, placement_facts
from fleet.services.database import connected
from fleet.services.neuron_client import NeuronClient, NodeError
from neuron.wire import ApiError, Download, FormatChoice, ModelSpec, Preflight

T = TypeVar("T")

MOST_ASKED = 8  # nodes, of which each may ask the hub
AT_ONCE = 32
LEAST_CONTEXT = 4096  # tokens, for whose keys and values a place has to have room
_SLACK_MB = 256  # of what a step computes with


@dataclass(frozen=True, slots=True)
class Form:
    """A form in which the model can be loaded, and the fleet's verdict on it."""

    choice: FormatChoice
    needed_mb: int
    decision: Decision

    @property
    def outlook(self) -> str:
        return str(self.decision.outlook)

    @property
    def where(self) -> str:
        """The node on which it would be loaded, or why there is none."""
        if chosen := self.decision.chosen:
            return f"{chosen.node}: {chosen.reason}"
        return "; ".join(f"{verdict.node}: {verdict.reason}" for verdict in self.decision.verdicts[:3])


@dataclass(frozen=True, slots=True)
class PreflightReport:
    """What a preflight found: the first node's answer, and where which form would go."""

    found: Preflight | None
    forms: list[Form]
    asked: list[str]
    having: list[str]  # the nodes that have all of its files, or can get them
    refused: dict[str, str]  # by node, in its words


@connected
def look(source: str, node: str | None = None) -> PreflightReport:
    """Ask a node, or up to `MOST_ASKED`, what there is of a model. Raises `ApiError` 404 and 409.

    Nothing is downloaded, and no row is written.
    """
    asked = [lookup.neuron(node)] if node else list(_open_nodes()[:MOST_ASKED])
    if not asked:
        message = "No neuron is healthy: start one, or add it under Nodes, and look again."
        raise ApiError(409, "no_node", message, param="node")
    answers = _ask(asked, lambda client: client.preflight(source))
    refused = {name: answer.message for name, answer in answers.items() if isinstance(answer, NodeError)}
    found = {name: answer for name, answer in answers.items() if isinstance(answer, Preflight)}
    first = next(iter(found.values()), None)
    having = sorted(found)
    forms = _forms(source, first, having) if first else []
    return PreflightReport(first, forms, [row.name for row in asked], having, refused)


def _forms(source: str, found: Preflight, having: Sequence[str]) -> list[Form]:
    everywhere = found.place != "disk"  # a path of one node's disk says nothing of others
    facts = placement_facts.nodes()
    nodes = facts if everywhere else [each for each in facts if each.name in having]
    return [_form(source, found, choice, nodes) for choice in found.choices]


def _form(source: str, found: Preflight, choice: FormatChoice, nodes: Sequence[NodeFacts]) -> Form:
    cache_mb = (found.cache_mb_per_1k or 0.0) * min(LEAST_CONTEXT, found.context or LEAST_CONTEXT) / 1000
    needed_mb = choice.weights_mb + round(cache_mb) + _SLACK_MB
    need = Need(model=f"{source} (new)", memory_mb=needed_mb)
    return Form(choice, needed_mb, placing.place(need, nodes, settings.EVICTION_STRATEGY))


@connected
def download(source: str, quant: str, node: str, *, requested_by: str) -> None:
    """Have a node bring the files of a model to its disk. Raises `ApiError`, 502 for what the node says."""
    spec = ModelSpec(model_id=source, source=source, quant=quant or None)
    with _told(node) as client:
        client.download(spec)
    audit.note(requested_by, "download", source, node=node, quant=quant)


@connected
def cancel_download(source: str, node: str, *, requested_by: str) -> None:
    """Have a node end a download; files that came whole stay there. Raises `ApiError` as `download` does."""
    with _told(node) as client:
        client.cancel_download(source)
    audit.note(requested_by, "cancel download", source, node=node)


@contextmanager
def _told(node: str) -> Iterator[NeuronClient]:
    """Yield a client of the node, whose refusals become the answer."""
    try:
        with NeuronClient(lookup.neuron(node)) as client:
            yield client
    except NodeError as error:
        status = 404 if error.status == HTTPStatus.NOT_FOUND else 502
        raise ApiError(status, error.code, error.message) from error


@connected
def downloads(node: str | None = None) -> list[tuple[str, Download]]:
    """Return the downloads of a node or of all healthy ones, each with its node's name.

    Raises `ApiError` for a name that is no neuron's; nodes that do not answer are left out.
    """
    asked = [lookup.neuron(node)] if node else list(_open_nodes())
    answers = _ask(asked, lambda client: client.downloads())
    return [
        (name, each)
        for name, answer in answers.items()
        if not isinstance(answer, NodeError)
        for each in answer
    ]


def _open_nodes() -> list[Node]:
    return list(Node.objects.filter(kind=Node.Kind.NEURON, healthy=True, cordoned=False).order_by("name"))


def _ask(nodes: Sequence[Node], question: Callable[[NeuronClient], T]) -> dict[str, T | NodeError]:
    """Ask all nodes at once; return each one's answer by its name."""

    def ask(node: Node) -> T | NodeError:
        try:
            with NeuronClient(node) as client:
                return question(client)
        except NodeError as error:
            return error

    with ThreadPoolExecutor(min(AT_ONCE, max(1, len(nodes)))) as threads:
        return dict(zip([node.name for node in nodes], threads.map(ask, nodes), strict=True))
