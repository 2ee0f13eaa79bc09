"""Answers about videos are those that transformers generates."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from neuron.models.decoder import AnyDecoder
from neuron.models.image_input import UnreadableImageError
from neuron.models.video_frames import VideoSizes, read_sizes
from neuron.pipe import VideoFile
from neuron.step import PromptImage
from tests.device.serving import Serving, decoder
from tests.device.test_speculation import shape_for
from tests.device.video_models import FAMILIES, VIDEO_ID, build, marks, patches, save, video
from tests.device.vision_models import IMAGE_ID, picture, tokenizer
from tests.device.vision_models import save as save_seeing

NEW = 16
AROUND = "user w1 {} w2 {} w3 assistant"
CLIPS = {0: video(1, 4), 1: video(2, 5, 1.0), 2: video(1, 2, 0.5)}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def path(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("seeing"), family)


def tokenize(text: str) -> list[int]:
    tokens: list[int] = tokenizer().encode(text)
    return tokens


@torch.inference_mode()
def expected(family: str, clip: VideoFile, *, with_image: bool = False, around: str = AROUND) -> list[int]:
    """What transformers generates of a prompt with a video, and maybe an image after it."""
    model, processor = build(family)
    pixels, grid = patches(clip.frames, processor)
    more: dict[str, Any] = {}
    image = ""
    if with_image:
        shown = processor.image_processor(
            images=[Image.open(io.BytesIO(picture(3))).convert("RGB")], return_tensors="pt"
        )
        more = dict(shown)
        image = "<image>" * int(shown["image_grid_thw"].prod() // 4)
    tokens = tokenize(around.format(marks(family, len(clip.frames), clip.fps), image))
    ids = torch.tensor([tokens])
    types = (ids == IMAGE_ID).int() + 2 * (ids == VIDEO_ID).int()
    if family == "qwen2_5_vl":
        more["second_per_grid_ts"] = [2 / clip.fps]
    told = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": types}
    told |= {"pixel_values_videos": pixels, "video_grid_thw": grid} | more
    out = model.generate(**told, max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0)
    found: list[int] = out[0, len(tokens) :].tolist()
    return found


def request(loaded: AnyDecoder, clip: VideoFile, *, with_image: bool) -> tuple[list[int], list[PromptImage]]:
    """Tokens and what they show, as the daemon sends them."""
    processor: Any = loaded.image_processor
    files = [clip, picture(3)] if with_image else [clip]
    looked = [processor.process(file) for file in files]
    tokens = tokenize(AROUND.format(*(pixels.placeholder.text for pixels in looked), ""))
    shown = []
    for pixels, token in zip(looked, (VIDEO_ID, IMAGE_ID), strict=False):
        positions = tuple(at for at, found in enumerate(tokens) if found == token)
        assert len(positions) == pixels.placeholder.num_tokens
        shown.append(PromptImage(positions, pixels.placeholder.digest, pixels))
    return tokens, shown


@pytest.mark.parametrize("with_image", [False, True])
def test_texts_about_videos_equal_those_of_generate(family: str, path: Path, with_image: bool):
    """In one batch, with placeholders cut anywhere by the chunks of prompts."""
    wanted = {number: expected(family, clip, with_image=with_image) for number, clip in CLIPS.items()}
    assert len({tuple(text) for text in wanted.values()}) > 1
    for step_tokens in (200, 17):
        serving = Serving(decoder(path), step_tokens=step_tokens, max_running=8)
        for number, clip in CLIPS.items():
            tokens, shown = request(serving.loaded, clip, with_image=with_image)
            serving.submit(number, tokens, max_tokens=NEW, images=shown)
        assert serving.drain() == wanted


def test_the_text_of_a_video_is_the_processors(family: str, path: Path):
    processor: Any = decoder(path).image_processor
    for clip in CLIPS.values():
        assert processor.process(clip).placeholder.text == marks(family, len(clip.frames), clip.fps)


def test_equal_videos_share_pages_and_others_do_not(path: Path):
    loaded = decoder(path)
    serving = Serving(loaded, shape_for(loaded))
    cached = []
    again = VideoFile(CLIPS[0].frames, 4.0)
    for number, clip in enumerate((CLIPS[0], CLIPS[0], again, CLIPS[1])):
        tokens, shown = request(serving.loaded, clip, with_image=False)
        serving.submit(number, tokens, images=shown)
        serving.drain()
        cached.append(serving.ends[number].cached_tokens > shown[0].start)  # type: ignore[union-attr]
    assert cached == [False, True, False, False]


def test_a_frame_that_cannot_be_read_is_named(path: Path):
    processor: Any = decoder(path).image_processor
    with pytest.raises(UnreadableImageError, match="frame 2: it is none of PNG"):
        processor.process(VideoFile([picture(1), b"no image"], 2.0))


def test_frames_that_take_too_much_memory_are_refused_before_they_are_read(tmp_path: Path):
    path = save(tmp_path / "m", "qwen2_vl")
    size = {"shortest_edge": 1 << 24, "longest_edge": 1 << 25}
    (path / "video_preprocessor_config.json").write_text(json.dumps({"size": size}))
    processor: Any = decoder(path).image_processor
    with pytest.raises(UnreadableImageError, match="6 frames of it are shown with"):
        processor.process(VideoFile([picture(1), *[b"not read"] * 5], 2.0))


@pytest.mark.parametrize("kind", ["llava", "qwen3_vl"])
def test_models_or_templates_without_a_place_for_videos_show_none(kind: str, tmp_path: Path):
    loaded = decoder(save_seeing(tmp_path / "m", kind))
    assert loaded.image_processor
    assert loaded.image_processor.video_token is None


@pytest.mark.parametrize(
    ("sizes", "count", "shown"),
    [
        (VideoSizes(784, 602_112, 28, of_all=False), 64, (1008, 560)),  # 1920 × 1080, each of them
        (VideoSizes(4096, 25_165_824, 32, of_all=True), 4, (1920, 1088)),  # all together
        (VideoSizes(4096, 25_165_824, 32, of_all=True), 64, (832, 448)),
        (VideoSizes(4 << 20, 25_165_824, 32, of_all=True), 1, (2752, 1536)),
    ],
)
def test_frames_are_shown_as_large_as_their_number_allows(
    sizes: VideoSizes, count: int, shown: tuple[int, int]
):
    assert sizes.fit(1920, 1080, count) == shown


def test_sizes_are_those_of_the_directory(tmp_path: Path):
    assert read_sizes(tmp_path, "llava", 28) is None
    usual = read_sizes(tmp_path, "qwen2_5_vl", 28)
    assert usual == VideoSizes(128 * 28 * 28, 768 * 28 * 28, 28, of_all=False)
    told = {"video_processor": {"size": {"shortest_edge": 4096, "longest_edge": 25165824}}}
    (tmp_path / "processor_config.json").write_text(json.dumps(told))
    assert read_sizes(tmp_path, "qwen3_vl", 32) == VideoSizes(4096, 25165824, 32, of_all=True)
    (tmp_path / "video_preprocessor_config.json").write_text(
        json.dumps({"min_pixels": 100, "max_pixels": 900})
    )
    assert read_sizes(tmp_path, "qwen2_vl", 28) == VideoSizes(100, 900, 28, of_all=False)
