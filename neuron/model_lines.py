"""What the daemon logged of each model last, for whoever looks for the reason of a failure."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Sequence

from cortex_site.base.logs import JsonFormatter

MOST_MODELS, MOST_LINES = 200, 100


class ModelLines(logging.Handler):
    """Keeps the last lines whose field `model` names a model; of too many models the oldest are forgotten."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(JsonFormatter("neuron"))
        self._lines: OrderedDict[str, deque[str]] = OrderedDict()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record's line. The handler's lock is held."""
        model = getattr(record, "model", None)
        if not isinstance(model, str) or record.name == "neuron.http":  # each request has a line
            return
        lines = self._lines.setdefault(model, deque(maxlen=MOST_LINES))
        self._lines.move_to_end(model)
        while len(self._lines) > MOST_MODELS:
            self._lines.popitem(last=False)
        lines.append(self.format(record))

    def of(self, model: str) -> Sequence[str]:
        """Return the lines of a model, the oldest first."""
        self.acquire()
        try:
            return list(self._lines.get(model, ()))
        finally:
            self.release()
