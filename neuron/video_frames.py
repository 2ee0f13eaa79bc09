"""The frames of a video file: runs in the sandbox, which has no torch."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

# Names of demuxers, by media type.
CONTAINERS = {"mp4": "mp4", "quicktime": "mov", "webm": "webm", "x-matroska": "matroska"}
_CURE = "send its frames as data:video/jpeg;base64, or install the extra `video` where the model runs"

_MOST_PIXELS = 1 << 26  # of all frames together: larger ones are scaled, so that they fit a message


class Frames(NamedTuple):
    """Frames as PNG files, and how many there are of each second."""

    frames: list[bytes]
    fps: float


class VideoProblem(NamedTuple):
    """Why a file is not read."""

    text: str


def read_frames(data: bytes, kind: str, fps: float, most: int, max_pixels: int) -> Frames | VideoProblem:
    """The frames of a file, `fps` of each second; where those were more than `most`, as many, evenly."""
    try:
        import av  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        return VideoProblem(f"video files are not read here; {_CURE}")
    options = {"enable_drefs": "0"}  # which name other files
    try:
        with av.open(io.BytesIO(data), format=CONTAINERS[kind], options=options) as container:
            if not container.streams.video:
                return VideoProblem("it has no video")
            return _frames(container, container.streams.video[0], fps, most, max_pixels)
    except av.FFmpegError as error:
        return VideoProblem(f"it is damaged, or no video/{kind}: {error.strerror}")


def _frames(container: Any, stream: Any, fps: float, most: int, max_pixels: int) -> Frames | VideoProblem:
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > max_pixels:
        return VideoProblem(f"its frames have {width} × {height} pixels; they may have {max_pixels:,}")
    seconds = _seconds(container, stream)
    if not seconds:
        return VideoProblem("it says no duration")
    fps = min(fps, most / seconds)
    stream.thread_type, stream.codec_context.thread_count = "NONE", 1
    found: list[bytes] = []
    for time, frame in _timed(container, stream):
        if time * fps + 1e-3 >= len(found):
            found.append(_file(frame, _MOST_PIXELS // math.ceil(seconds * fps)))
        if len(found) == most:
            break
    return Frames(found, fps) if found else VideoProblem("it has no frames")


def _seconds(container: Any, stream: Any) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / 1e6 if container.duration else 0.0


def _timed(container: Any, stream: Any) -> Iterator[tuple[float, Any]]:
    """Each frame with its seconds from the first one."""
    start = None
    for frame in container.decode(stream):
        if frame.time is not None:
            start = frame.time if start is None else start
            yield frame.time - start, frame


def _file(frame: Any, most: int) -> bytes:
    """A frame as a file, of at most so many pixels."""
    file, image = io.BytesIO(), frame.to_image()
    if (scale := math.sqrt(most / (image.width * image.height))) < 1:
        image.thumbnail((image.width * scale, image.height * scale))
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
