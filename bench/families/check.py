"""One architecture: built tiny, run by transformers and by the engine, and compared."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
)

from bench.families.catalogue import CAUSAL, EMBEDDING, Case
from bench.families.shrink import SPECIAL, tiny_config, tiny_model
from neuron.device.model_runner import ModelRunner
from neuron.engine.scheduler import Scheduler
from neuron.engine.scheduler_limits import SchedulerLimits
from neuron.models.architecture import decoder_class
from neuron.models.checkpoint import Checkpoint, ModelLoadError
from neuron.models.decoder import AnyDecoder, load_decoder
from neuron.models.embedder import load_embedder
from neuron.models.pooling import Pooling
from neuron.models.reading import read_checkpoint
from neuron.models.weights import LoadOptions
from neuron.pipe import Finished, Sampling, Submit, Tokens
from neuron.step import CacheShape, EmbeddingPlan

Result = Literal["equal", "differs", "refused", "crashed", "not built"]
LENGTHS = (5, 37, 90)  # within a page, within a step, longer than a step
ROUNDS = ("in a batch", "from the prefix cache", "in the next turn")
NEW = 16
PENALTY = 1.5  # for repetition: texts that say one thing again and again would compare little
SAME = 0.9999  # cosine of two vectors that are equal but for rounding
# Where `generate` and the class's own `forward` disagree, the class is right: it was trained that way.
OTHER_WAYS: dict[str, dict[str, Any]] = {
    "without a cache, which differs from that with one": {"use_cache": False},
    "told positions from 1, as the class counts, not from 0": {"first_position": 1},
}
SHAPE = CacheShape(num_pages=200, page_size=8, num_slots=8, context=256, num_snapshots=16)
STEP_TOKENS = 48
PROMPT_TYPES = {"hrm_text": 1, "paligemma": 0}  # by which a tokenizer tells that tokens are a prompt
NOTHING = Checkpoint(Path(), {}, {})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one architecture."""

    result: Result
    detail: str = ""  # by which decoder, where it differs, or why not


def check(case: Case) -> Verdict:
    """Build the architecture, run it on both sides and compare; whatever fails is the verdict."""
    try:
        return _embeds(case) if case.kind == EMBEDDING else _writes(case)
    except ModelLoadError as error:
        return Verdict("refused", _reason(error))
    except Exception as error:  # noqa: BLE001 - is the verdict
        return Verdict("crashed", _line(error))


def _writes(case: Case) -> Verdict:
    config_class = CONFIG_MAPPING[case.model_type]
    try:
        config = tiny_config(config_class, **case.changes)
    except Exception as error:  # noqa: BLE001 - transformers' own
        _refuse_default(config_class)
        return Verdict("not built", f"configuration: {_line(error)}")
    how = ""
    if case.kind == CAUSAL and not case.changes and _makes_decoder(config):
        how = "; built with is_decoder"
    found = decoder_class(NOTHING, config)
    try:
        model = tiny_model(found, config)
    except Exception as error:  # noqa: BLE001 - transformers' own
        return Verdict("not built", f"model: {_line(error)}")
    failure = ""
    try:
        rounds, references = _rounds(model)
    except Exception as error:  # noqa: BLE001 - transformers' own
        failure = f"generate: {_line(error)}"
        with suppress(Exception):
            rounds, references = _rounds(model, use_cache=False)
            failure, how = "", f"{how}; to `generate` without a cache, which fails with one"
    try:
        decoder = _loaded(model)
    except ModelLoadError as error:
        if failure and "it does not run" in error.message:
            return Verdict("not built", failure)
        raise
    if failure:
        return Verdict("not built", failure)
    served = _served(decoder, rounds)
    name = type(decoder).__name__ + how
    if difference := _difference(served, references):
        for what, options in OTHER_WAYS.items():
            with suppress(Exception):  # transformers' own
                others = [[_generate(model, tokens, **options) for tokens in prompts] for prompts in rounds]
                if not _difference(served, others):
                    return Verdict("equal", f"{name}; to `generate` {what}")
        return Verdict("differs", f"{difference} ({name})")
    distinct = {token for text in references[0] for token in text}
    return Verdict("equal", name if len(distinct) > 8 else f"{name}; few distinct tokens")


def _makes_decoder(config: Any) -> bool:
    """Make the configuration of an encoder that of the decoder that transformers has of it, if it has one."""
    is_encoder = config.is_encoder_decoder or getattr(config, "is_decoder", None) is False
    if not is_encoder or MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].config_class is not type(config):
        return False
    config.is_decoder, config.is_encoder_decoder = True, False
    return True


def _loaded(model: Any) -> AnyDecoder:
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        options = LoadOptions(torch.float32, torch.device("cpu"), lambda _: None, images=False)
        return load_decoder(read_checkpoint(Path(folder)), options)


def _refuse_default(config_class: Any) -> None:
    """Raise ModelLoadError if the kind is refused whatever its sizes."""
    try:
        config = config_class()
    except Exception:  # noqa: BLE001 - transformers' own
        return
    decoder_class(NOTHING, config)


def _difference(served: Sequence[Sequence[list[int]]], wanted: Sequence[Sequence[list[int]]]) -> str:
    """Where the answers begin to differ, in words; empty when they are equal."""
    for where, ours, theirs in zip(ROUNDS, served, wanted, strict=True):
        for length, mine, answer in zip(LENGTHS, ours, theirs, strict=True):
            if mine != answer:
                pairs = zip(mine, answer, strict=True)
                at = next(index for index, (our, their) in enumerate(pairs) if our != their)
                return f"{where}, prompt of {length} tokens: from token {at} of {NEW}"
    return ""


def _rounds(model: Any, **options: Any) -> tuple[list[list[list[int]]], list[list[list[int]]]]:
    """Prompts in three rounds, the second the first again, and what `generate` answers to each."""
    first = [_prompt(length) for length in LENGTHS]
    answers = [_generate(model, tokens, **options) for tokens in first]
    turn = [[*tokens, *answer, *_prompt(6)] for tokens, answer in zip(first, answers, strict=True)]
    return [first, first, turn], [answers, answers, [_generate(model, tokens, **options) for tokens in turn]]


def _prompt(length: int) -> list[int]:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(3, SPECIAL, (length,), generator=generator).tolist()


@torch.inference_mode()
def _generate(
    model: Any, tokens: list[int], *, use_cache: bool = True, first_position: int | None = None
) -> list[int]:
    model.generation_config.eos_token_id = model.generation_config.forced_eos_token_id = None
    told = {}
    if first_position is not None:
        told["position_ids"] = torch.arange(first_position, first_position + len(tokens))[None]
    if (kind := PROMPT_TYPES.get(model.config.model_type)) is not None:
        told["token_type_ids"] = torch.full((1, len(tokens)), kind)
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


def _served(decoder: AnyDecoder, rounds: Sequence[Sequence[list[int]]]) -> list[list[list[int]]]:
    """The answers to each round, its prompts in one batch, the cache kept from round to round."""
    limits = SchedulerLimits(max_running=SHAPE.num_slots, step_tokens=STEP_TOKENS)
    scheduler = Scheduler(
        "m",
        SHAPE,
        vocab_size=decoder.vocab_size,
        limits=limits,
        has_states=bool(decoder.states),
        prompt_rule=decoder.prompt_rule,
    )
    runner = ModelRunner(decoder, decoder.layers, SHAPE, states=decoder.states)
    answers: list[list[list[int]]] = []
    for prompts in rounds:
        texts: dict[int, list[int]] = {}
        for tokens in prompts:
            number = len(texts)
            texts[number] = []
            assert (
                scheduler.submit(
                    Submit(number, "m", tokens, NEW, Sampling(repetition_penalty=PENALTY), []), 0.0
                )
                is None
            )
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


def _embeds(case: Case) -> Verdict:
    try:
        config = tiny_config(CONFIG_MAPPING[case.model_type], **case.changes)
        model = tiny_model(MODEL_MAPPING[type(config)], config)
        prompts = [_prompt(length) for length in LENGTHS]
        with torch.inference_mode():
            states = [model(input_ids=torch.tensor([tokens])).last_hidden_state for tokens in prompts]
        wanted = [state[0].mean(0) for state in states]
    except Exception as error:  # noqa: BLE001 - transformers' own
        return Verdict("not built", _line(error))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        options = LoadOptions(torch.float32, torch.device("cpu"), lambda _: None)
        embedder = load_embedder(read_checkpoint(Path(folder)), Pooling("mean", False, None), options)
    rows = embedder.run(EmbeddingPlan(tuple(map(tuple, prompts))))
    found = [torch.frombuffer(bytearray(row), dtype=torch.float32) for row in rows]
    pairs = zip(found, wanted, strict=True)
    least = min(float(torch.cosine_similarity(mine, theirs, dim=0)) for mine, theirs in pairs)
    return Verdict("equal") if least > SAME else Verdict("differs", f"least cosine {least:.4f}")


def _reason(error: ModelLoadError) -> str:
    reason = error.message.split("; transformers' decoders run")[0]
    return reason.partition(": ")[2] or reason


def _line(error: Exception) -> str:
    """Return type and beginning of an error's text, without what differs between machines."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:160]}"
