"""Checkpoints: the states of the project's files before the turns of a session.

A checkpoint is taken while the model already thinks; calls that may change something wait for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from helexa_acp.storage.records import Checkpointed
from helexa_acp.storage.shadow_git import ShadowGit, ShadowGitError

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one session. `problem` says why the last one could not be taken."""

    def __init__(self, git: ShadowGit) -> None:
        self.git = git
        self.problem = ""
        self._task: asyncio.Task[None] | None = None

    def begin(self, message_id: str, keep: Callable[[Checkpointed], None]) -> None:
        """Start to take the checkpoint of a turn; `keep` gets its record."""
        self._task = asyncio.create_task(self._take(message_id, keep))

    async def ready(self) -> None:
        """Wait for the checkpoint of the turn."""
        if self._task is not None:
            await asyncio.wait({self._task})

    def drop(self) -> None:
        """Wait no more for the checkpoint of a turn that is over: its record is not kept."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def aclose(self) -> None:
        self.drop()
        await asyncio.to_thread(self.git.abort)

    async def _take(self, message_id: str, keep: Callable[[Checkpointed], None]) -> None:
        try:
            commit = await asyncio.to_thread(self.git.save, message_id)
        except (ShadowGitError, OSError) as error:
            if str(error) != self.problem:
                log.warning("no checkpoint: %s", error)
            self.problem = str(error)
            return
        self.problem = ""
        keep(Checkpointed(message_id, commit))
