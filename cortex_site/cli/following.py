"""Starting operations by command and watching them to their end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from cortex_site.cli.operator_api import OperatorApi, OperatorError

Operation = dict[str, Any]

LOOK_EVERY_S = 0.5
SILENCE_S = 30.0  # a control plane that is restarted is waited for
ACTIVE = frozenset({"pending", "running"})


class InterruptedWatchError(Exception):
    """Ctrl-C: the operations go on."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        super().__init__()
        self.operations = operations


def follow(api: OperatorApi, operations: Sequence[Operation]) -> list[Operation]:
    """The operations as they ended; bars on stderr meanwhile.

    Raises `OperatorError` when the control plane stays away, `InterruptedWatchError` on Ctrl-C.
    """
    current = {operation["id"]: operation for operation in operations}
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
            rows = {
                ident: bars.add_task(title(operation), total=None) for ident, operation in current.items()
            }
            while active := [ident for ident, operation in current.items() if operation["state"] in ACTIVE]:
                time.sleep(LOOK_EVERY_S)
                for ident in active:
                    current[ident] = _look(api, ident)
                    _draw(bars, rows[ident], current[ident])
    except KeyboardInterrupt as stop:
        raise InterruptedWatchError(list(current.values())) from stop
    return list(current.values())


def _look(api: OperatorApi, ident: int) -> Operation:
    deadline = time.monotonic() + SILENCE_S
    while True:
        try:
            found: Operation = api.get(f"/operations/{ident}")
        except OperatorError as error:
            if not error.is_silence or time.monotonic() > deadline:
                raise
            time.sleep(LOOK_EVERY_S)
        else:
            return found


def _draw(bars: Progress, row: TaskID, operation: Operation) -> None:
    progress = operation["progress"]
    bars.update(
        row,
        description=title(operation),
        total=None if progress is None else 1.0,
        completed=progress or 0.0,
    )


def title(operation: Operation) -> str:
    """`load of m on beast: loading`, as far as is known."""
    what = f"{operation['kind']} of {operation['model']}" if operation.get("model") else operation["kind"]
    place = operation.get("node") or ""
    device = operation.get("device")
    where = f" on {place}" + (f" device {device}" if device is not None else "") if place else ""
    note = operation.get("message") or operation["state"]
    return f"{what}{where}: {note}"


def verdict(operation: Operation) -> str:
    """One line for an operation that ended, or goes on."""
    code = f" ({operation['error_code']})" if operation.get("error_code") else ""
    state = operation["state"]
    name = title({**operation, "message": ""}).removesuffix(f": {state}")
    note = f": {operation['message']}" if operation.get("message") else ""
    return f"#{operation['id']} {name} {state}{note}{code}"
