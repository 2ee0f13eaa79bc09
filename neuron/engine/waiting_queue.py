"""Which waiting request is admitted next: by priority, then from the principal that has had least.

Fairness among principals is the virtual token counter of Sheng et al., "Fairness in Serving Large Language
Models" (OSDI 2024). Each principal's counter grows by the tokens that were run for it, those of answers
counting double; the principal with the lowest counter comes first. One that returns from idling starts at the
highest counter that was admitted, so it has saved nothing up. A principal's own requests go in order of
arrival.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain

from neuron.engine.request import EngineRequest

DECODE_WEIGHT = 2.0  # of an answer's token against a prompt's: the paper's choice
MAX_COUNTERS = 1024  # beyond it, only those of waiting principals are kept


class _PriorityClass:
    """The waiting requests of one priority."""

    def __init__(self) -> None:
        self.preempted: deque[EngineRequest] = deque()  # have run already; they go first
        self.by_principal: dict[str, deque[EngineRequest]] = {}  # none is empty

    def __iter__(self) -> Iterator[EngineRequest]:
        return chain(self.preempted, *self.by_principal.values())

    def __bool__(self) -> bool:
        return bool(self.preempted or self.by_principal)

    def remove(self, request: EngineRequest) -> None:
        if request.has_run:
            self.preempted.remove(request)
            return
        queue = self.by_principal[request.principal]
        queue.remove(request)
        if not queue:
            del self.by_principal[request.principal]


class WaitingQueue:
    """The waiting requests of one model, higher `EngineRequest.priority` first.

    Has no bound of its own: the scheduler asks for a `shed_candidate` when there are too many.
    """

    def __init__(self) -> None:
        self._classes: dict[int, _PriorityClass] = {}  # none is empty
        self._counters: dict[str, float] = {}  # by principal
        self._virtual_time = 0.0  # the highest counter with which a principal was admitted
        self._len = 0

    def __len__(self) -> int:
        return self._len

    def __iter__(self) -> Iterator[EngineRequest]:
        return chain.from_iterable(self._classes.values())

    def add(self, request: EngineRequest) -> None:
        """Add a request that has never run."""
        principal = request.principal
        if not any(principal in members.by_principal for members in self._classes.values()):
            self._counters[principal] = max(self._counters.get(principal, 0.0), self._virtual_time)
        members = self._classes.setdefault(request.priority, _PriorityClass())
        members.by_principal.setdefault(principal, deque()).append(request)
        self._len += 1

    def requeue(self, request: EngineRequest) -> None:
        """Add a preempted request as the next of its class."""
        self._classes.setdefault(request.priority, _PriorityClass()).preempted.appendleft(request)
        self._len += 1

    def head(self) -> EngineRequest | None:
        """Return the request to admit next, or None when none waits."""
        if not self._classes:
            return None
        first = self._classes[max(self._classes)]
        if first.preempted:
            return first.preempted[0]
        principal = min(first.by_principal, key=self._counters.__getitem__)
        return first.by_principal[principal][0]

    def admit(self, request: EngineRequest) -> None:
        """Remove the head, which runs from now on."""
        if not request.has_run:
            self._virtual_time = max(self._virtual_time, self._counters[request.principal])
        self.remove(request)
        if len(self._counters) > MAX_COUNTERS:
            self._drop_absent_counters()

    def remove(self, request: EngineRequest) -> None:
        members = self._classes[request.priority]
        members.remove(request)
        if not members:
            del self._classes[request.priority]
        self._len -= 1
        if not self._len:  # nobody had to wait for anybody: counters do not matter
            self._drop_absent_counters()

    def charge(self, request: EngineRequest, tokens: int) -> None:
        """Charge the request's principal for `tokens` that were run: of its prompt, or one of its answer."""
        weight = DECODE_WEIGHT if request.is_decoding else 1.0
        counter = self._counters.get(request.principal, self._virtual_time)
        self._counters[request.principal] = counter + weight * tokens

    def shed_candidate(self, principal: str, priority: int) -> EngineRequest | None:
        """Return the waiting request that a full queue drops for a new one of `principal`, or None.

        It is the newest of a lower class, or of a principal that has more requests waiting in the same class
        than the newcomer's would have. It has never run.
        """
        for level in sorted(self._classes):
            by_principal = self._classes[level].by_principal
            if level > priority or not by_principal:
                continue
            most = max(by_principal, key=lambda name: len(by_principal[name]))
            if level < priority or len(by_principal[most]) > len(by_principal.get(principal, ())) + 1:
                return by_principal[most][-1]
        return None

    def _drop_absent_counters(self) -> None:
        waiting = {principal for members in self._classes.values() for principal in members.by_principal}
        self._counters = {name: counter for name, counter in self._counters.items() if name in waiting}
