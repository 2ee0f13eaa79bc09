"""A prompt with an image of a megapixel: Idefics3's shape, which cuts images into tiles."""

from __future__ import annotations

import io
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from bench import command
from bench.budget import Budget
from bench.engine.models import SMALL, runner_of
from bench.engine.serving import Engine, alternate
from neuron.device.model_runner import ModelRunner
from neuron.models.decoder import AnyDecoder, load_decoder
from neuron.models.reading import read_checkpoint
from neuron.models.weights import LoadOptions
from neuron.step import PromptImage

FIGURES = ("image_first_over_reference", "image_gap_p99_over_alone")
IMAGE = "<image>"
STREAMS, SHOWN = 8, 8
TILE, PATCH = 512, 16
VISION = {
    "hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 3,
    "image_size": TILE, "patch_size": PATCH,
}  # fmt: skip
LEAST = SMALL | {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
SIDE, LEAST_SIDE = 1024, 512  # pixels of an image


def measure(run: command.Run, folder: Path, budget: Budget) -> dict[str, Any]:
    shape, side, repeats, steps = run.pick(
        (SMALL, SIDE, 3, 60), (SMALL, SIDE, 2, 40), (LEAST, LEAST_SIDE, 1, 4)
    )
    model, processor = _built(shape)
    path = folder / "model"
    model.save_pretrained(path)
    processor.save_pretrained(path)
    options = LoadOptions(torch.bfloat16, run.options.device, on_progress=lambda _: None)
    decoder = load_decoder(read_checkpoint(path), options)
    model, runner = model.to(run.options.device), runner_of(decoder)
    pictures = [_picture(seed, side) for seed in range(1 + repeats + SHOWN)]
    fresh = iter(pictures)  # none is in the cache
    first = alternate(
        budget.share(0.5), "an image", repeats,
        lambda: _first_token(decoder, runner, processor, next(fresh)),
        partial(_reference, model, processor, pictures[0]),
    )  # fmt: skip
    gaps = None
    if budget.allows("gaps beside images"):
        gaps = _gaps(decoder, runner, processor, pictures[-SHOWN:], steps)
    return {
        "image_first_over_reference": round(first[0] / first[1], 3),
        "image_gap_p99_over_alone": gaps and round(gaps[1] / gaps[0], 2),
        "seconds": {"first": first, "gaps_p99": gaps},
    }


def _built(shape: dict[str, Any]) -> tuple[Any, Any]:
    """The model in bfloat16, and its processor."""
    names = ["<pad>", "<s>", "</s>", "<unk>", "<fake_token_around_image>", IMAGE, "<end_of_utterance>"]
    names += ["<global-img>", *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))]
    words = [*names, *(f"w{number}" for number in range(shape["vocab_size"] - len(names)))]
    tokenizer = Tokenizer(WordLevel({word: at for at, word in enumerate(words)}, unk_token=names[3]))
    tokenizer.pre_tokenizer = Whitespace()
    special = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), names, strict=False))
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, additional_special_tokens=names[4:], **special
    )
    config = transformers.Idefics3Config(
        vision_config=VISION,
        text_config={"model_type": "llama", "max_position_embeddings": 8192, "eos_token_id": None} | shape,
        image_token_id=names.index(IMAGE),
        scale_factor=4,
        tie_word_embeddings=False,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16).eval()
    images = Idefics3ImageProcessorPil(size={"longest_edge": SIDE}, max_image_size={"longest_edge": TILE})
    seen = (TILE // PATCH // config.scale_factor) ** 2
    return model, transformers.Idefics3Processor(images, fast, image_seq_len=seen)


def _picture(seed: int, side: int) -> bytes:
    noise = torch.randint(0, 256, (side, side, 3), generator=torch.Generator().manual_seed(seed))
    file = io.BytesIO()
    Image.fromarray(noise.to(torch.uint8).numpy()).save(file, "JPEG")
    return file.getvalue()


TEXT = ("w1 w2 w3", "w4 w5 w6 w7 w8")  # before and after the image


def _request(decoder: AnyDecoder, processor: Any, picture: bytes) -> tuple[list[int], PromptImage]:
    """A prompt as the daemon and the worker's image thread make it."""
    assert decoder.image_processor
    pixels = decoder.image_processor.process(picture)
    before, after = TEXT
    tokens = processor.tokenizer.encode(f"{before} {pixels.placeholder.text} {after}")
    places = tuple(at for at, token in enumerate(tokens) if token == decoder.image_processor.token.id)
    return tokens, PromptImage(places, pixels.placeholder.digest, pixels)


def _first_token(decoder: AnyDecoder, runner: ModelRunner, processor: Any, picture: bytes) -> None:
    engine = Engine(runner, vocab_size=decoder.vocab_size)
    tokens, image = _request(decoder, processor, picture)
    engine.submit(tokens, 1, images=[image])
    engine.drain()


def _reference(model: Any, processor: Any, picture: bytes) -> None:
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    text = f"{TEXT[0]} {IMAGE} {TEXT[1]}"
    inputs = processor(text=text, images=[[image]], return_tensors="pt").to(model.device, model.dtype)
    model.generate(**inputs, max_new_tokens=1, do_sample=False, eos_token_id=None)


def _gaps(
    decoder: AnyDecoder, runner: ModelRunner, processor: Any, pictures: list[bytes], steps: int
) -> tuple[float, float]:
    """The 99th percentile of the gaps of streams alone, and of the same beside prompts with images."""
    engine = Engine(runner, vocab_size=decoder.vocab_size)
    requests = [_request(decoder, processor, picture) for picture in pictures]
    streams = [engine.submit([3 + number, 4, 5], 4000) for number in range(STREAMS)]
    while not all(engine.tokens[number] for number in streams):
        engine.step()
    for _ in range(steps):
        engine.step()
    began = time.perf_counter()
    shown = [engine.submit(tokens, 1, images=[image]) for tokens, image in requests]
    while not all(engine.tokens[number] for number in shown):
        engine.step()
    alone = [gap for number in streams for gap in _between(engine.token_times[number], 0.0, began)]
    beside = [gap for number in streams for gap in _between(engine.token_times[number], began, float("inf"))]
    return _p99(alone), _p99(beside)


def _between(times: list[float], start: float, end: float) -> list[float]:
    return [later - sooner for sooner, later in pairwise(times) if start <= later < end]


def _p99(gaps: list[float]) -> float:
    return quantiles(gaps, n=100)[98] if len(gaps) > 1 else sum(gaps)
