"""What checks in the sandbox found, remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast

from neuron.sandbox.process import CallLimitError
from neuron.sandbox.sandbox import Sandbox

MAX_VERDICTS = 4096
MAX_CHARS = 32 << 20  # of what was checked, all verdicts together
DIGEST_BYTES = 16

P = ParamSpec("P")
T = TypeVar("T")


class _Verdict(NamedTuple):
    found: Any  # a CallLimitError is raised
    chars: int


class Verdicts:
    """The verdicts of checks: pure functions, whose results nobody may change.

    The latest are kept by digest, also that a check takes too much, so that each costs a process once.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._known: OrderedDict[bytes, _Verdict] = OrderedDict()
        self._chars = 0

    async def ask(self, principal: str, check: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """What `check` returns.

        Raises `CallLimitError` when it takes too much, `CallError`, and `ApiError` 503 when the sandbox is
        full or fails.
        """
        try:
            text = repr((check.__qualname__, args, options)).encode("utf-8", "surrogatepass")
        except RecursionError as error:
            raise CallLimitError("more nesting than Python can follow") from error
        key = blake2b(text, digest_size=DIGEST_BYTES).digest()
        if key not in self._known:
            self._keep(key, _Verdict(await self._found(principal, check, *args, **options), len(text)))
        self._known.move_to_end(key)
        found = self._known[key].found
        if isinstance(found, CallLimitError):
            raise CallLimitError(str(found))
        return cast("T", found)

    async def _found(
        self, principal: str, check: Callable[P, T], *args: P.args, **options: P.kwargs
    ) -> T | CallLimitError:
        try:
            return await self._sandbox.run(principal, check, *args, **options)
        except CallLimitError as error:
            return error.with_traceback(None)

    def _keep(self, key: bytes, verdict: _Verdict) -> None:
        if twice := self._known.pop(key, None):  # two asked at once
            self._chars -= twice.chars
        self._known[key] = verdict
        self._chars += verdict.chars
        while len(self._known) > MAX_VERDICTS or (self._chars > MAX_CHARS and len(self._known) > 1):
            self._chars -= self._known.popitem(last=False)[1].chars
