"""The videos of a chat: their frames, taken from the body or from a file in it."""

from __future__ import annotations

from neuron.api.bodies.chat import ContentPart, ImageUrl
from neuron.api.errors import invalid
from neuron.api.prompts.data_urls import decoded, parse_data_url
from neuron.pipe import VideoFile
from neuron.videos import CONTAINERS, UnreadableVideoError, Videos
from neuron.wire import ApiError

USUAL_FPS = 2.0
_EXPECTED = (
    "expected data:video/jpeg;base64, and the frames, with commas between them, or a file "
    f"({', '.join(f'video/{kind}' for kind in CONTAINERS)}) in base64; none is fetched from an address"
)


async def read_video(part: ContentPart, param: str, videos: Videos, principal: str) -> VideoFile:
    """The frames of a `video_url`. Raises `ApiError`, 400 for what is no video or too long."""
    url = part.video_url.url if isinstance(part.video_url, ImageUrl) else part.video_url or ""
    place, fps = f"{param}.video_url.url", part.fps or USUAL_FPS
    media, data = parse_data_url(url) or ("", "")
    kind = media.removeprefix("video/")
    if kind == "jpeg":
        return VideoFile(_frames(data, place, videos.max_frames), fps)
    if kind not in CONTAINERS or not media.startswith("video/"):
        raise invalid(place, f"{place}: {_EXPECTED}.")
    try:
        return await videos.read(principal, decoded(data, place), kind, fps)
    except UnreadableVideoError as error:
        raise ApiError(400, "invalid_video", f"{param}: {error}.", param=param) from error


def _frames(data: str, place: str, most: int) -> list[bytes]:
    if data.count(",") >= most:
        message = f"{place}: it has {data.count(',') + 1} frames; a video may have {most}."
        raise invalid(place, message)
    return [decoded(frame, place) for frame in data.split(",")]
