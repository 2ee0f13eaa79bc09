"""Prompts of text and pictures, answered by transformers' `generate` and by the engine."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import torch

from bench.families.pictures import Tensors, TinyProcessor
from bench.families.shrink import SPECIAL
from neuron.device.model_runner import ModelRunner
from neuron.engine.scheduler import Scheduler
from neuron.engine.scheduler_limits import SchedulerLimits
from neuron.models.decoder import AnyDecoder
from neuron.models.image_features import EncodedImage
from neuron.models.image_input import Pixels
from neuron.pipe import Finished, ImagePlaceholder, Sampling, Submit, Tokens
from neuron.step import CacheShape, PromptImage

LENGTHS = (5, 37, 90)  # within a page, within a step, longer than a step
NEW = 16
PENALTY = 1.5  # for repetition: texts that say one thing again and again would compare little
SHAPE = CacheShape(num_pages=400, page_size=8, num_slots=8, context=1024, num_snapshots=16)
STEP_TOKENS = 48
PROMPT_TYPES = {"hrm_text": 1, "paligemma": 0}  # by which a tokenizer tells that tokens are a prompt


@dataclass(frozen=True, slots=True)
class Prompt:
    tokens: list[int]
    pictures: tuple[tuple[int, Tensors], ...] = ()  # where each begins, and what the class takes of it
    count: int = 0  # placeholders of a picture
    axis: int = 0  # along which the pixels of several follow each other

    @property
    def places(self) -> list[int]:
        return [at for start, _ in self.pictures for at in range(start, start + self.count)]

    @property
    def images(self) -> tuple[PromptImage, ...]:
        """The pictures as the engine takes them; equal ones have one digest."""
        found = []
        for start, tensors in self.pictures:
            digest = blake2b(tensors["pixel_values"].numpy().tobytes(), digest_size=16).digest()
            pixels = Pixels(ImagePlaceholder(digest, "", self.count), tensors)
            found.append(PromptImage(tuple(range(start, start + self.count)), digest, pixels))
        return tuple(found)

    def followed_by(self, answer: list[int]) -> Prompt:
        """Return the next turn's prompt."""
        shown = {self.tokens[at] for at in self.places}  # a class counts those that it says itself, too
        said = [token for token in answer if token not in shown]
        return replace(self, tokens=[*self.tokens, *said, *text_prompt(6).tokens])


def text_prompt(length: int) -> Prompt:
    generator = torch.Generator().manual_seed(length)
    return Prompt(torch.randint(3, SPECIAL, (length,), generator=generator).tolist())


def picture_prompts(processor: TinyProcessor | None) -> list[Prompt]:
    """Return a prompt with a picture, the same with another picture, and one with two."""
    if processor is None:
        return []
    count, shown = processor.count, [processor.token.id] * processor.count
    before, after = text_prompt(11).tokens, text_prompt(9).tokens
    one = [Prompt([*before, *shown, *after], ((11, processor.draw(seed)),), count) for seed in (1, 2)]
    two = ((0, processor.draw(2)), (count + 11, processor.draw(1)))
    tokens = [*shown, *before, *shown, *text_prompt(20).tokens]
    return [*one, Prompt(tokens, two, count, processor.axis)]


@torch.inference_mode()
def generate(
    model: Any,
    prompt: Prompt,
    *,
    use_cache: bool = True,
    first_position: int | None = None,
    one_by_one: bool = False,
) -> list[int]:
    """Return what transformers answers, which may be given pictures that were encoded `one_by_one`."""
    model.generation_config.eos_token_id = model.generation_config.forced_eos_token_id = None
    tokens = prompt.tokens
    told: dict[str, Any] = {}
    if first_position is not None:
        told["position_ids"] = torch.arange(first_position, first_position + len(tokens))[None]
    if (kind := PROMPT_TYPES.get(model.config.model_type)) is not None:
        told["token_type_ids"] = torch.full((1, len(tokens)), kind)
    if prompt.pictures:
        told = _types(model, prompt) | told
        drawn = [tensors for _, tensors in prompt.pictures]
        if one_by_one:
            base = model.base_model
            shown = [EncodedImage.of(base.get_image_features(**one, return_dict=True)) for one in drawn]
            told["mm_encoder_outputs"] = {"image": EncodedImage.joined(shown).output()}
        for name in drawn[0].keys() - ({"pixel_values"} if one_by_one else set()):
            axis = prompt.axis if name == "pixel_values" else 0
            told[name] = torch.cat([tensors[name] for tensors in drawn], dim=axis)
    out = model.generate(
        input_ids=torch.tensor([tokens]),
        attention_mask=torch.ones(1, len(tokens), dtype=torch.int64),
        max_new_tokens=NEW,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        use_cache=use_cache,
        repetition_penalty=PENALTY,
        **told,
    )
    answer: list[int] = out[0, len(tokens) :].tolist()
    return answer


def _types(model: Any, prompt: Prompt) -> dict[str, torch.Tensor]:
    types = torch.zeros(1, len(prompt.tokens), dtype=torch.int64)
    types[0, prompt.places] = 1
    taken = inspect.signature(model.forward).parameters
    return {name: types for name in taken if name.endswith("token_type_ids")}


def serve(decoder: AnyDecoder, rounds: Sequence[Sequence[Prompt]]) -> list[list[list[int]]]:
    """Return the answers to each round, its prompts in one batch, the cache kept from round to round."""
    limits = SchedulerLimits(max_running=SHAPE.num_slots, step_tokens=STEP_TOKENS)
    scheduler = Scheduler(
        "m",
        SHAPE,
        vocab_size=decoder.vocab_size,
        limits=limits,
        has_states=bool(decoder.states),
        prompt_rule=decoder.prompt_rule,
        whole_images=decoder.whole_images,
    )
    runner = ModelRunner(decoder, decoder.layers, SHAPE, states=decoder.states)
    answers: list[list[list[int]]] = []
    for prompts in rounds:
        texts: dict[int, list[int]] = {}
        for prompt in prompts:
            number = len(texts)
            texts[number] = []
            submit = Submit(number, "m", prompt.tokens, NEW, Sampling(repetition_penalty=PENALTY), [])
            assert scheduler.submit(submit, 0.0, images=prompt.images) is None
        while scheduler.has_work:
            plan = scheduler.plan()
            assert plan is not None
            for event in scheduler.apply(plan, runner.run(plan), 0.1):
                if isinstance(event, Tokens):
                    texts[event.id] += event.tokens
                assert isinstance(event, Tokens | Finished), event
        scheduler.check()
        answers.append(list(texts.values()))
    return answers
