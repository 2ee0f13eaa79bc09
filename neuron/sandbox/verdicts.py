"""What checks in the sandbox found, remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import TypeVarTuple

from neuron.sandbox.process import CallLimitError
from neuron.sandbox.sandbox import Sandbox

MAX_VERDICTS = 4096
DIGEST_BYTES = 16

Arguments = TypeVarTuple("Arguments")


class Verdicts:
    """The verdicts of checks: functions that return the problem of what they are given, or None.

    The latest are kept by digest, those of what takes too much included, so that each costs a process once.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._known: OrderedDict[bytes, str | None] = OrderedDict()

    async def problem(
        self, principal: str, check: Callable[[*Arguments], str | None], *arguments: *Arguments
    ) -> str | None:
        """What `check` finds, or which limit of the sandbox it exceeds.

        Raises `CallError`, and `ApiError` 503 when the sandbox cannot say.
        """
        try:
            key = _digest(check.__qualname__, arguments)
            if key not in self._known:
                self._keep(key, await self._found(principal, check, *arguments))
        except RecursionError:
            return "it is nested too deeply"
        self._known.move_to_end(key)
        return self._known[key]

    async def _found(
        self, principal: str, check: Callable[[*Arguments], str | None], *arguments: *Arguments
    ) -> str | None:
        try:
            return await self._sandbox.run(principal, check, *arguments)
        except CallLimitError as error:
            return f"it takes {error}"

    def _keep(self, key: bytes, problem: str | None) -> None:
        self._known[key] = problem
        if len(self._known) > MAX_VERDICTS:
            self._known.popitem(last=False)


def _digest(*values: object) -> bytes:
    return blake2b(repr(values).encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()
