"""Videos in chats: lists of frames and files, for models that see them and those that see images alone."""

from __future__ import annotations

import base64
import io
from collections.abc import AsyncIterator, Sequence
from fractions import Fraction
from typing import Any

import pytest
import pytest_asyncio
from PIL import Image

from neuron.config import VideoSettings
from neuron.sandbox.process import CallLimitError
from neuron.sandbox.sandbox import CallError
from neuron.video_frames import VideoProblem, read_frames
from neuron.videos import UnreadableVideoError, Videos
from tests.device import video_models, vision_models
from tests.device.test_videos import expected
from tests.device.video_models import END, START, marks, video
from tests.neuron.conftest import Neuron, config, neuron_with
from tests.neuron.test_images import WORKER, ask, chat, text, url

OTHER_TOKENS = 7  # user w1, a start and an end, w2 w3 assistant
DEVICE = {"threads": 1, "memory_mb": 2000, "kv_mb": 16}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def seeing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Neuron]:
    folder = tmp_path_factory.mktemp("vision")
    options = {"max_images": 3, "device": DEVICE, "videos": {"max_frames": 6}}
    async with neuron_with(config(**options), worker=WORKER) as running:
        for name, path in (
            ("m", video_models.save(folder / "videos", "qwen2_5_vl")),
            ("images", vision_models.save(folder / "images", "llava")),
            ("text", video_models.save_text(folder / "text")),
        ):
            answer = await running.load(path, name)
            assert answer.status_code == 200, answer.text
        yield running


pytestmark = pytest.mark.asyncio(loop_scope="module")


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def part(frames: Sequence[bytes], **options: Any) -> dict[str, Any]:
    shown = ",".join(map(encoded, frames))
    return {"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{shown}"}, **options}


def file_part(data: bytes, kind: str = "mp4") -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": f"data:video/{kind};base64,{encoded(data)}"}}


def words_of(said: str) -> list[str]:
    """The words of an answer without special tokens."""
    return [word for word in said.split() if word.startswith("w")]


async def test_an_answer_to_a_video_equals_that_of_transformers(seeing: Neuron):
    clip = video(1, 4)
    body = chat(text("w1"), part(clip.frames), text("w2 w3"), ignore_eos=True, max_tokens=16)
    answer = await ask(seeing, body)
    around = f"user w1 {START} {{}} {END} w2 w3 assistant"
    wanted = vision_models.tokenizer().decode(expected("qwen2_5_vl", clip, around=around))
    assert words_of(answer["choices"][0]["message"]["content"]) == words_of(wanted) != []
    placeholders = marks("qwen2_5_vl", 4, 2.0).count(video_models.VIDEO)
    assert answer["usage"]["prompt_tokens"] == placeholders + OTHER_TOKENS
    assert (await ask(seeing, body, "/tokenize"))["count"] == answer["usage"]["prompt_tokens"]


async def test_frames_per_second_tell_when_each_was_seen(seeing: Neuron):
    clip = video(2, 6)
    answers = []
    for fps in (None, 2.0, 0.25):
        body = chat(part(clip.frames, fps=fps), ignore_eos=True, max_tokens=16)
        answers.append((await ask(seeing, body))["choices"][0]["message"]["content"])
    assert answers[0] == answers[1] != answers[2]


async def test_a_model_that_sees_no_videos_reads_their_frames_as_images(seeing: Neuron):
    frames = video(1, 3).frames
    of_video = chat(text("w1"), part(frames), text("w2"), model="images")
    of_images = chat(text("w1"), *(url(frame) for frame in frames), text("w2"), model="images")
    shown, apart = [await ask(seeing, body) for body in (of_video, of_images)]
    assert shown["choices"][0]["message"] == apart["choices"][0]["message"]
    assert shown["usage"]["prompt_tokens"] == apart["usage"]["prompt_tokens"]


FRAMES = video(1, 7).frames
UNUSABLE = {
    "an address": (
        {"type": "video_url", "video_url": "http://x/a.mp4"},
        "invalid_request_body", ".video_url.url", "none is fetched from an address",
    ),
    "another kind": (file_part(b"", "x-flv"), "invalid_request_body", ".video_url.url", "video/mp4"),
    "no base64": (
        {"type": "video_url", "video_url": "data:video/jpeg;base64,AAAA,***"},
        "invalid_request_body", ".video_url.url", "not base64",
    ),
    "too many frames": (part(FRAMES), "invalid_request_body", ".video_url.url", "a video may have 6"),
    "a frame that is none": (part([FRAMES[0], b"no"]), "invalid_video", "", "frame 2: it is none of PNG"),
    "no frames of a second": (part(FRAMES[:2], fps=0), "invalid_request_body", ".fps", "> 0"),
    "no file": (file_part(b"no video"), "invalid_video", "", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", UNUSABLE)
async def test_an_unusable_video_is_refused_with_its_place(seeing: Neuron, name: str):
    content, code, param, words = UNUSABLE[name]
    answer = await seeing.http.post("/v1/chat/completions", json=chat(text("w1"), content))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, code), error
    assert error["param"] == f"messages[0].content[1]{param}"
    assert words in error["message"]


async def test_more_frames_than_images_are_refused_of_a_model_that_reads_images(seeing: Neuron):
    answer = await seeing.http.post("/v1/chat/completions", json=chat(part(FRAMES[:4]), model="images"))
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "messages[0].content[0]")
    assert "may have 3 images, and the model reads each frame as one" in error["message"]


async def test_a_model_that_reads_text_only_says_so(seeing: Neuron):
    answer = await seeing.http.post("/v1/chat/completions", json=chat(part(FRAMES[:2]), model="text"))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "unsupported_parameter")
    assert "reads text only, not video_url" in error["message"]


# --- files ------------------------------------------------------------------------------------------------


def movie(seconds: int, *, fps: int = 10, kind: str = "mp4", codec: str = "mpeg4") -> bytes:
    """A file in which each second has a shade of gray of its own."""
    av = pytest.importorskip("av")
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for at in range(seconds * fps):
            frame = av.VideoFrame.from_image(Image.new("RGB", (64, 48), (20 * (at // fps),) * 3))
            frame.pts, frame.time_base = at, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def shades(frames: Sequence[bytes], middle: tuple[int, int] = (32, 24)) -> list[int]:
    """The second that each frame is of."""
    return [round(Image.open(io.BytesIO(frame)).convert("L").getpixel(middle) / 20) for frame in frames]


@pytest.mark.parametrize(("kind", "codec"), [("mp4", "mpeg4"), ("webm", "libvpx"), ("matroska", "mpeg4")])
async def test_a_file_gives_frames_of_each_second(kind: str, codec: str):
    data = movie(3, kind=kind, codec=codec)
    found = read_frames(data, "x-matroska" if kind == "matroska" else kind, 2.0, 64, 10_000)
    assert not isinstance(found, VideoProblem)
    assert (shades(found.frames), found.fps) == ([0, 0, 1, 1, 2, 2], 2.0)


async def test_a_long_file_gives_fewer_frames_of_each_second():
    found = read_frames(movie(8), "mp4", 2.0, 4, 10_000)
    assert not isinstance(found, VideoProblem)
    assert (shades(found.frames), found.fps) == ([0, 2, 4, 6], 0.5)


async def test_many_large_frames_are_scaled(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("neuron.video_frames._MOST_PIXELS", 6 * 32 * 24)
    found = read_frames(movie(3), "mp4", 2.0, 64, 10_000)
    assert not isinstance(found, VideoProblem)
    assert {Image.open(io.BytesIO(frame)).size for frame in found.frames} == {(32, 24)}
    assert shades(found.frames, (16, 12)) == [0, 0, 1, 1, 2, 2]


async def test_files_that_are_none_are_problems():
    data = movie(2)
    assert read_frames(data, "mp4", 2.0, 4, 64 * 48 - 1) == VideoProblem(
        "its frames have 64 × 48 pixels; they may have 3,071"
    )
    for damaged, kind in ((data[:200], "mp4"), (b"#EXTM3U\nfile:///etc/passwd", "mp4"), (data, "webm")):
        found = read_frames(damaged, kind, 2.0, 4, 10_000)
        assert isinstance(found, VideoProblem)
        assert f"no video/{kind}" in found.text


async def test_without_the_extra_a_file_is_refused_with_the_cure(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    found = read_frames(b"", "mp4", 2.0, 4, 10_000)
    assert isinstance(found, VideoProblem)
    assert "send its frames as data:video/jpeg;base64, or install the extra `video`" in found.text


async def test_a_file_that_takes_too_much_is_refused(monkeypatch: pytest.MonkeyPatch):
    for error, words in (
        (CallLimitError("more than 20 s of CPU time"), "to read it takes more than 20 s of CPU time"),
        (CallError("read_frames: ValueError: no"), "it cannot be read: read_frames"),
    ):
        videos = Videos(VideoSettings())
        monkeypatch.setattr(videos, "_sandbox", Failing(error))
        with pytest.raises(UnreadableVideoError, match=words):
            await videos.read("", b"", "mp4", 2.0)


class Failing:
    """A sandbox in which each call fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def run(self, *_: Any) -> None:
        raise self._error


async def test_an_answer_to_a_file_is_that_to_its_frames(seeing: Neuron):
    data = movie(2)
    found = read_frames(data, "mp4", 2.0, 6, 10_000)
    assert not isinstance(found, VideoProblem)
    bodies = (chat(file_part(data)), chat(part(found.frames, fps=found.fps)))
    of_file, of_frames = [await ask(seeing, body) for body in bodies]
    assert of_file["choices"][0]["message"] == of_frames["choices"][0]["message"]
