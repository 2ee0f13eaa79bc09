"""Starting operations by command and watching them to their end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from cortex_site.cli.operator_api import OperatorApi, OperatorError
from fleet.operations import OperationView

Answer = dict[str, Any]  # of the operator API: one operation

LOOK_EVERY_S = 0.5
SILENCE_S = 30.0  # a control plane that is restarted is waited for


class InterruptedWatchError(Exception):
    """Ctrl-C: the operations in `going_on` go on."""

    def __init__(self, going_on: Sequence[int]) -> None:
        super().__init__()
        self.going_on = going_on


def follow(api: OperatorApi, answers: Sequence[Answer]) -> list[Answer]:
    """The operations as they ended; bars on stderr meanwhile.

    Raises `OperatorError` when the control plane stays away, `InterruptedWatchError` on Ctrl-C.
    """
    current = {answer["id"]: answer for answer in answers}
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
            rows = {ident: bars.add_task(title(answer), total=None) for ident, answer in current.items()}
            while active := _active(current.values()):
                time.sleep(LOOK_EVERY_S)
                for ident in active:
                    current[ident] = _look(api, ident)
                    _draw(bars, rows[ident], current[ident])
    except KeyboardInterrupt as stop:
        raise InterruptedWatchError(_active(current.values())) from stop
    return list(current.values())


def _active(answers: Iterable[Answer]) -> list[int]:
    operations = [OperationView.parse(answer) for answer in answers]
    return [operation.id for operation in operations if operation.is_active]


def _look(api: OperatorApi, ident: int) -> Answer:
    deadline = time.monotonic() + SILENCE_S
    while True:
        try:
            found: Answer = api.get(f"/operations/{ident}")
        except OperatorError as error:
            if not error.is_silence or time.monotonic() > deadline:
                raise
            time.sleep(LOOK_EVERY_S)
        else:
            return found


def _draw(bars: Progress, row: TaskID, answer: Answer) -> None:
    progress = answer["progress"]
    bars.update(
        row,
        description=title(answer),
        total=None if progress is None else 1.0,
        completed=progress or 0.0,
    )


def title(answer: Answer) -> str:
    """`load of m on beast: loading`, as far as is known."""
    operation = OperationView.parse(answer)
    return f"{operation.subject}: {operation.message or operation.state}"


def verdict(answer: Answer) -> str:
    """One line for an operation that ended, or goes on."""
    operation = OperationView.parse(answer)
    message = f": {operation.message}" if operation.message else ""
    code = f" ({operation.error_code})" if operation.error_code else ""
    return f"#{operation.id} {operation.subject} {operation.state}{message}{code}"
