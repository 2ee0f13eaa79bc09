"""Video files into frames, in processes that can be killed: a stranger's file is read by native code.

A file is read by the demuxer that its media type names and by no other: some would open what a file names.
"""

from __future__ import annotations

from neuron.config import VideoSettings
from neuron.pipe import VideoFile
from neuron.sandbox.process import CallLimitError
from neuron.sandbox.sandbox import CallError, Sandbox
from neuron.video_frames import CONTAINERS, VideoProblem, read_frames

__all__ = ["CONTAINERS", "UnreadableVideoError", "Videos"]


class UnreadableVideoError(Exception):
    """The file is no video, or none that is accepted; the message says why."""


class Videos:
    """Reads video files. `close` ends its processes."""

    def __init__(self, settings: VideoSettings) -> None:
        self.max_frames = settings.max_frames
        self._max_pixels = settings.max_pixels
        self._sandbox = Sandbox(settings)

    async def read(self, principal: str, data: bytes, kind: str, fps: float) -> VideoFile:
        """The frames of a file of one of the `CONTAINERS`, `fps` of each second, or fewer of a long one.

        Raises `UnreadableVideoError`, and `ApiError` 503 when too many wait.
        """
        try:
            found = await self._sandbox.run(
                principal, read_frames, data, kind, fps, self.max_frames, self._max_pixels
            )
        except CallLimitError as error:
            raise UnreadableVideoError(f"to read it takes {error}") from error
        except CallError as error:
            raise UnreadableVideoError(f"it cannot be read: {error}") from error
        if isinstance(found, VideoProblem):
            raise UnreadableVideoError(found.text)
        return VideoFile(found.frames, found.fps)

    async def close(self) -> None:
        await self._sandbox.close()
