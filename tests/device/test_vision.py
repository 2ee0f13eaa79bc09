from __future__ import annotations

import gc
import io
import json
import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Files

from neuron.device import pieces
from neuron.models.architecture import TESTED_VISION_FAMILIES
from neuron.models.checkpoint import ModelLoadError
from neuron.models.decoder import AnyDecoder
from neuron.models.image_input import UnreadableImageError
from neuron.pipe import Refused
from neuron.step import PromptImage, StepPlan, StepResult
from tests.device.serving import Serving, decoder
from tests.device.vision_models import IMAGE, IMAGE_ID, KINDS, build, picture, save

NEW = 12
# Texts with the numbers of their pictures.
PROMPTS: list[tuple[str, tuple[int, ...]]] = [
    (f"user w1 {IMAGE} w2 w3 assistant", (1,)),
    (f"user w1 {IMAGE} w2 w3 assistant", (2,)),  # the same words, another picture
    (f"user {IMAGE} w9 {IMAGE} w4 assistant", (2, 3)),
    (f"user {IMAGE} w5 assistant w6 user {IMAGE} w7 assistant", (1, 1)),
    ("user w1 w2 w3 assistant", ()),
    (f"user {IMAGE} w8 {IMAGE} assistant", (4, 5)),
]
SIZES = {4: (90, 20), 5: (13, 50)}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("vision") / "model", kind)


def test_every_vision_family_that_is_called_tested_has_a_test():
    assert sorted(KINDS) == sorted(TESTED_VISION_FAMILIES)


@pytest.fixture(scope="module")
def wanted(kind: str) -> list[list[int]]:
    """The answers that transformers generates."""
    reference, processor = build(kind)
    found = []
    for text, pictures in PROMPTS:
        images = [opened(shown(number)) for number in pictures]
        marked = text.replace(IMAGE, processor.image_token)
        inputs = processor(text=marked, images=images or None, return_tensors="pt")
        out = reference.generate(**inputs, max_new_tokens=NEW, do_sample=False, eos_token_id=None)
        found.append(out[0, inputs["input_ids"].shape[1] :].tolist())
    assert len({tuple(text) for text in found}) == len(found)
    return found


def shown(number: int) -> bytes:
    return picture(number, *SIZES.get(number, (40, 30)))


def opened(data: bytes) -> Any:
    return Files.open(io.BytesIO(data)).convert("RGB")


def request(loaded: AnyDecoder, text: str, pictures: tuple[int, ...]) -> tuple[list[int], list[PromptImage]]:
    """Tokens and images as the daemon sends them."""
    assert loaded.image_processor
    looked = [loaded.image_processor.process(shown(number)) for number in pictures]
    placeholders, parts = [pixels.placeholder for pixels in looked], text.split(IMAGE)
    whole = parts[0] + "".join(one.text + part for one, part in zip(placeholders, parts[1:], strict=True))
    tokens = loaded.image_processor._processor.tokenizer.encode(whole)
    positions = [at for at, token in enumerate(tokens) if token == IMAGE_ID]
    images = []
    for pixels, one in zip(looked, placeholders, strict=True):
        own, positions = positions[: one.num_tokens], positions[one.num_tokens :]
        images.append(PromptImage(tuple(own), one.digest, pixels))
    return tokens, images


def serve(loaded: AnyDecoder, **options: Any) -> list[list[int]]:
    serving = Serving(loaded, **options)
    for number, (text, pictures) in enumerate(PROMPTS):
        tokens, images = request(loaded, text, pictures)
        serving.submit(number, tokens, max_tokens=NEW, images=images)
    return list(serving.drain().values())


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("step_tokens", [34, 37, 200])
def test_texts_about_images_equal_those_of_generate(model: Path, wanted, step_tokens: int, fused: bool):
    """In one batch, with placeholders cut anywhere by the chunks of prompts."""
    assert serve(decoder(model, fused=fused), step_tokens=step_tokens) == wanted


def test_a_preempted_request_resumes_with_its_images(model: Path, wanted):
    """Every other step preempts the newest request, inside an image or after it."""
    serving = Serving(decoder(model), max_running=8, step_tokens=11)
    for number, (text, pictures) in enumerate(PROMPTS):
        tokens, images = request(serving.loaded, text, pictures)
        serving.submit(number, tokens, max_tokens=NEW, images=images)
    for step in range(40):
        serving.step()
        if step % 2 and serving.scheduler._running:
            serving.scheduler._preempt(serving.scheduler._running[-1])
            serving.scheduler.pages.clear_cached()
    assert list(serving.drain().values()) == wanted
    assert serving.num_joined > 2 * len(PROMPTS)


def test_equal_images_share_pages_and_others_do_not(model: Path, wanted):
    serving = Serving(decoder(model))
    text = PROMPTS[0][0]
    cached = {}
    for number, shown in enumerate((1, 1, 2, 2, 1)):
        tokens, images = request(serving.loaded, text, (shown,))
        serving.submit(number, tokens, max_tokens=NEW, images=images)
        assert serving.drain()[number] == wanted[shown - 1]
        cached[number] = serving.ends[number].cached_tokens
    assert [bool(cached[number]) for number in range(5)] == [False, True, False, True, True]


def test_no_embeddings_are_kept_once_an_image_has_run(model: Path):
    serving = Serving(decoder(model))
    tokens, images = request(serving.loaded, *PROMPTS[2])
    serving.submit(1, tokens, images=images)
    serving.drain()
    assert not any(serving.runner._images._ready.values())


def test_pixels_go_with_the_request_that_is_cancelled_within_its_image(model: Path, kind: str):
    serving = Serving(decoder(model), max_running=4, step_tokens=7)
    tokens, images = request(serving.loaded, *PROMPTS[0])
    pixels = weakref.ref(images[0].pixels)
    serving.submit(1, tokens, images=images)
    del images
    for _ in range(2):
        serving.step()
    assert any(serving.runner._images._ready.values()) or serving.loaded.whole_images
    assert pixels() is not None
    serving.scheduler.cancel(1)
    gc.collect()
    assert pixels() is None


def test_each_image_is_embedded_once(model: Path, monkeypatch: pytest.MonkeyPatch):
    serving = Serving(decoder(model), max_running=4, step_tokens=7)
    looks: list[Any] = []
    embed = serving.loaded.vision_encoder.embed
    monkeypatch.setattr(
        serving.loaded.vision_encoder, "embed", lambda pixels: looks.append(1) or embed(pixels)
    )
    for number in range(2):  # the second time all of it is in the cache
        tokens, images = request(serving.loaded, f"user {IMAGE} w1 {IMAGE} w4 w4 w4 w4 w4 w4 w4 w4", (2, 3))
        serving.submit(number, tokens, images=images)
        serving.drain()
        assert len(looks) == 2


def test_streams_go_on_while_an_image_is_encoded(model: Path, wanted, monkeypatch: pytest.MonkeyPatch):
    """Its tower computes a piece of an operation in a step, and comes to the same."""
    monkeypatch.setattr(pieces, "MOST", 20_000)
    serving = Serving(decoder(model))
    run = serving.runner.run

    def run_a_little(plan: StepPlan) -> StepResult:
        encoding = plan.encoding and replace(plan.encoding, seconds=0.0)
        return run(replace(plan, encoding=encoding))

    monkeypatch.setattr(serving.runner, "run", run_a_little)
    texts = {number: request(serving.loaded, *PROMPTS[number]) for number in (4, 2)}
    serving.submit(4, texts[4][0], max_tokens=NEW)
    serving.step()
    serving.submit(2, texts[2][0], max_tokens=NEW, images=texts[2][1])
    while 4 not in serving.ends:
        serving.step()
    assert not serving.tokens[2]
    assert serving.drain() == {4: wanted[4], 2: wanted[2]}
    assert serving.num_steps > 50


def test_images_without_a_token_between_them_are_two(model: Path, kind: str):
    """Of which some classes make one."""
    serving = Serving(decoder(model))
    tokens, images = request(serving.loaded, f"user {IMAGE}{IMAGE} w9 assistant", (2, 3))
    positions = serving.loaded.vision_encoder.positions(tokens, images)
    if kind == "qwen3_vl":  # each of two rows of three
        assert images[0].end == images[1].start
        assert positions.tolist() == [
            [0, *[1] * 6, *[4] * 6, 7, 8],
            [0, *[1, 1, 1, 2, 2, 2], *[4, 4, 4, 5, 5, 5], 7, 8],
            [0, *[1, 2, 3] * 2, *[4, 5, 6] * 2, 7, 8],
        ]
    else:
        assert positions is None
    serving.submit(1, tokens, images=images)
    assert len(serving.drain()[1]) == 24


def test_a_request_that_leaves_ends_the_encoding_of_its_image(model: Path):
    serving = Serving(decoder(model))
    tokens, images = request(serving.loaded, *PROMPTS[0])
    serving.submit(1, tokens, images=images)
    plan = serving.scheduler.plan()
    assert plan
    assert plan.encoding
    assert not plan.chunks
    result = serving.runner.run(replace(plan, encoding=replace(plan.encoding, seconds=0.0)))
    assert serving.scheduler.apply(plan, result, 0.1) == []
    pixels = weakref.ref(images[0].pixels)
    del plan, images
    serving.scheduler.cancel(1)
    serving.drain()
    gc.collect()
    assert pixels() is None


def test_an_image_that_cannot_be_encoded_fails_its_request_alone(model: Path, wanted, monkeypatch):
    serving = Serving(decoder(model))
    good, bad = (request(serving.loaded, *PROMPTS[number]) for number in (0, 1))
    embed = serving.loaded.vision_encoder.embed

    def embed_but_one(pixels: Any) -> Any:
        if pixels is bad[1][0].pixels:
            raise ValueError("no such picture")
        return embed(pixels)

    monkeypatch.setattr(serving.loaded.vision_encoder, "embed", embed_but_one)
    for number, (tokens, images) in enumerate((good, bad)):
        serving.submit(number, tokens, max_tokens=NEW, images=images)
    assert serving.drain()[0] == wanted[0]
    refused = serving.ends[1]
    assert isinstance(refused, Refused)
    assert (refused.status, refused.code) == (500, "engine_error")
    assert "no such picture" in refused.message


def test_files_that_do_not_go_together_fail_the_load(model: Path, tmp_path: Path):
    other = shutil.copytree(model, tmp_path / "other")
    file = next(other.glob("*processor_config.json"))
    settings = json.loads(file.read_text())
    wrong = {"patch_size": 14, "image_seq_len": 3, "image_seq_length": 3}
    file.write_text(json.dumps(settings | wrong))
    if "merge_size" not in settings:  # whose processor has no number of its own
        with pytest.raises(ModelLoadError, match="processor and vision tower differ") as caught:
            decoder(other)
        assert caught.value.code == "model_broken"
    file.write_text("{")
    with pytest.raises(ModelLoadError, match="image processor cannot be read"):
        decoder(other)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "none of PNG"),
        (b"<svg/>", "none of PNG"),
        (picture(1)[:200], "damaged"),
        (picture(1)[:-200], "damaged"),
    ],
)
def test_an_unreadable_image_is_refused_with_the_reason(model: Path, data: bytes, words: str):
    processor = decoder(model).image_processor
    assert processor
    with pytest.raises(UnreadableImageError, match=words):
        processor.process(data)


def test_an_image_with_too_many_pixels_is_not_decoded(model: Path):
    processor = decoder(model, max_image_pixels=1000).image_processor
    assert processor
    with pytest.raises(UnreadableImageError, match="40 × 30 pixels"):
        processor.process(picture(1))
