"""Which waiting request is admitted next: by class, and within a class from whoever has had least.

Fairness between principals is the virtual token counter of Sheng et al., "Fairness in Serving Large Language
Models" (OSDI 2024): each principal is charged for the tokens that were run for it, those of answers double,
and the one charged least comes first; whoever comes back from idling starts where the others are and has
saved up nothing. A principal's own requests go in order of arrival.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain

from neuron.engine.request import Request

DECODE_WEIGHT = 2.0  # of a token of the answer, against one of the prompt: the paper's choice
MAX_COUNTERS = 1024  # more are kept only of principals that wait


class _PriorityClass:
    """The requests of one priority."""

    def __init__(self) -> None:
        self.preempted: deque[Request] = deque()  # ran already: they go first
        self.by_principal: dict[str, deque[Request]] = {}  # by principal; none is empty

    def __iter__(self) -> Iterator[Request]:
        return chain(self.preempted, *self.by_principal.values())

    def __bool__(self) -> bool:
        return bool(self.preempted or self.by_principal)

    def remove(self, request: Request) -> None:
        if request.has_run:
            self.preempted.remove(request)
            return
        queue = self.by_principal[request.principal]
        queue.remove(request)
        if not queue:
            del self.by_principal[request.principal]


class WaitingQueue:
    """Higher `Request.priority` first. Has no bound of its own: see `crowder`."""

    def __init__(self) -> None:
        self._classes: dict[int, _PriorityClass] = {}  # none is empty
        self._counters: dict[str, float] = {}
        self._virtual_time = 0.0  # what the principal admitted last had been charged
        self._len = 0

    def __len__(self) -> int:
        return self._len

    def __iter__(self) -> Iterator[Request]:
        return chain.from_iterable(self._classes.values())

    def add(self, request: Request) -> None:
        """A request that has never run."""
        principal = request.principal
        if not any(principal in members.by_principal for members in self._classes.values()):
            self._counters[principal] = max(self._counters.get(principal, 0.0), self._virtual_time)
        members = self._classes.setdefault(request.priority, _PriorityClass())
        members.by_principal.setdefault(principal, deque()).append(request)
        self._len += 1

    def requeue(self, request: Request) -> None:
        """A request that was preempted: the next of its class."""
        self._classes.setdefault(request.priority, _PriorityClass()).preempted.appendleft(request)
        self._len += 1

    def head(self) -> Request | None:
        """The request to admit next."""
        if not self._classes:
            return None
        first = self._classes[max(self._classes)]
        if first.preempted:
            return first.preempted[0]
        return first.by_principal[min(first.by_principal, key=self._counters.__getitem__)][0]

    def admit(self, request: Request) -> None:
        """Take out the head, which is to run now."""
        if not request.has_run:
            self._virtual_time = max(self._virtual_time, self._counters[request.principal])
        self.remove(request)
        if len(self._counters) > MAX_COUNTERS:
            self._forget_absent()

    def remove(self, request: Request) -> None:
        members = self._classes[request.priority]
        members.remove(request)
        if not members:
            del self._classes[request.priority]
        self._len -= 1
        if not self._len:  # nobody had to wait for anybody: no account matters
            self._forget_absent()

    def charge(self, request: Request, tokens: int) -> None:
        """`tokens` were run for the request, of its prompt or one of its answer."""
        weight = DECODE_WEIGHT if request.is_decoding else 1.0
        self._counters[request.principal] = (
            self._counters.get(request.principal, self._virtual_time) + weight * tokens
        )

    def shed_candidate(self, principal: str, priority: int) -> Request | None:
        """Who leaves a full queue for a request of `principal`: the newest of a lower class, or of whoever
        has more waiting in the same class than the newcomer would have. Never one that has run."""
        for level in sorted(self._classes):
            by_principal = self._classes[level].by_principal
            if level > priority or not by_principal:
                continue
            most = max(by_principal, key=lambda name: len(by_principal[name]))
            if level < priority or len(by_principal[most]) > len(by_principal.get(principal, ())) + 1:
                return by_principal[most][-1]
        return None

    def _forget_absent(self) -> None:
        present = {principal for members in self._classes.values() for principal in members.by_principal}
        self._counters = {p: charged for p, charged in self._counters.items() if p in present}
