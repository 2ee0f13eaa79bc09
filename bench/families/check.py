"""One architecture: built tiny, run by transformers and by the engine, and compared."""

from __future__ import annotations

import inspect
import logging
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
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
)

from bench.families.catalogue import CAUSAL, EMBEDDING, IMAGE_TEXT, RANKING, Case
from bench.families.pictures import TinyProcessor
from bench.families.prompts import LENGTHS, NEW, Prompt, generate, picture_prompts, serve, text_prompt
from bench.families.shrink import tiny_config, tiny_model
from neuron.models.architecture import decoder_class
from neuron.models.checkpoint import Checkpoint, ModelLoadError
from neuron.models.decoder import AnyDecoder, load_decoder
from neuron.models.embedder import load_embedder
from neuron.models.image_processor import image_token_id
from neuron.models.ranker import load_ranker
from neuron.models.reading import read_checkpoint
from neuron.models.sentence_modules import Embedding, Pooling, Ranking
from neuron.models.weights import LoadOptions
from neuron.step import EmbeddingPlan, EncodedText

Result = Literal["equal", "differs", "refused", "crashed", "not built"]
ROUNDS = ("in a batch", "from the prefix cache", "in the next turn")
SAME = 1e-5  # how far cosines are from 1, and scores from each other, of what is equal but for rounding
# Where `generate` and the class's own `forward` disagree, the class is right: it was trained that way.
OTHER_WAYS: dict[str, dict[str, Any]] = {
    "without a cache, which differs from that with one": {"use_cache": False},
    "of pictures encoded one by one, which differs from together": {"one_by_one": True},
    "told positions from 1, as the class counts, not from 0": {"first_position": 1},
}
NOTHING = Checkpoint(Path(), {}, {})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one architecture."""

    result: Result
    detail: str = ""  # by which decoder, where it differs, or why not


def check(case: Case) -> Verdict:
    """Build the architecture, run it on both sides and compare; whatever fails is the verdict."""
    try:
        return {EMBEDDING: _embeds, RANKING: _ranks}.get(case.kind, _writes)(case)
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
    found = decoder_class(NOTHING, config, images=case.kind == IMAGE_TEXT)
    try:
        model = tiny_model(found, config)
    except Exception as error:  # noqa: BLE001 - transformers' own
        return Verdict("not built", f"model: {_line(error)}")
    processor, blind = _pictures(model) if case.kind == IMAGE_TEXT else (None, "")
    failure = ""
    prompts = [text_prompt(length) for length in LENGTHS] + picture_prompts(processor)
    try:
        rounds, references = _rounds(model, prompts)
    except Exception as error:  # noqa: BLE001 - transformers' own
        failure = f"generate: {_line(error)}"
        with suppress(Exception):
            rounds, references = _rounds(model, prompts, use_cache=False)
            failure, how = "", f"{how}; to `generate` without a cache, which fails with one"
    try:
        decoder, unseen = _loaded(model, processor)
    except ModelLoadError as error:
        if failure and "it does not run" in error.message:
            return Verdict("not built", failure)
        raise
    if failure:
        return Verdict("not built", failure)
    if unseen:
        rounds, references = (
            [prompts[: len(LENGTHS)] for prompts in rounds],
            [r[: len(LENGTHS)] for r in references],
        )
    verdict = _compared(model, decoder, rounds, references, how)
    if verdict.result == "equal" and (cause := unseen or blind):
        return Verdict("refused", f"images: {cause}; equal on text alone: {verdict.detail}")
    return Verdict(
        verdict.result, f"{verdict.detail}{_told_apart(None if unseen else processor, references)}"
    )


def _pictures(model: Any) -> tuple[TinyProcessor | None, str]:
    """Return what draws pictures for a class, or why there are none."""
    try:
        return TinyProcessor(model, image_token_id(model.config, None)), ""
    except ModelLoadError as error:
        return None, _reason(error)
    except (AttributeError, ValueError) as error:
        return None, _line(error)


def _told_apart(processor: TinyProcessor | None, references: Sequence[Sequence[list[int]]]) -> str:
    """Return the form of the pictures, and whether other pictures lead to other texts."""
    if processor is None:
        return ""
    one, other = references[0][len(LENGTHS) :][:2]
    return f"; pictures: {processor.form}" + ("" if one != other else ", not told apart")


def _compared(
    model: Any,
    decoder: AnyDecoder,
    rounds: list[list[Prompt]],
    references: list[list[list[int]]],
    how: str,
) -> Verdict:
    served = serve(decoder, rounds)
    name = type(decoder).__name__ + how
    if difference := _difference(served, references):
        for what, options in OTHER_WAYS.items():
            with suppress(Exception):  # transformers' own
                others = [[generate(model, prompt, **options) for prompt in prompts] for prompts in rounds]
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


def _loaded(model: Any, processor: TinyProcessor | None) -> tuple[AnyDecoder, str]:
    """Return the decoder, and why it has no sight although there are pictures."""
    causes: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: causes.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("neuron.models")
    log.addHandler(handler)
    try:
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            options = LoadOptions(
                torch.float32, torch.device("cpu"), lambda _: None, images=processor is not None
            )
            decoder = load_decoder(read_checkpoint(Path(folder)), options, processor=processor)
    finally:
        log.removeHandler(handler)
    if processor is None or decoder.vision_encoder:
        return decoder, ""
    off = next((cause for cause in causes if "images are off" in cause), "its decoder takes none")
    return decoder, off.partition("reads and writes text: ")[2] or off


def _rounds(
    model: Any, first: list[Prompt], **options: Any
) -> tuple[list[list[Prompt]], list[list[list[int]]]]:
    """Prompts in three rounds, the second the first again, and what `generate` answers to each."""
    answers = [generate(model, prompt, **options) for prompt in first]
    turn = [prompt.followed_by(answer) for prompt, answer in zip(first, answers, strict=True)]
    return [first, first, turn], [answers, answers, [generate(model, prompt, **options) for prompt in turn]]


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
        for number, (mine, answer) in enumerate(zip(ours, theirs, strict=True)):
            if mine != answer:
                pairs = zip(mine, answer, strict=True)
                at = next(index for index, (our, their) in enumerate(pairs) if our != their)
                what = f"of {LENGTHS[number]} tokens" if number < len(LENGTHS) else "with pictures"
                return f"{where}, prompt {what}: from token {at} of {NEW}"
    return ""


def _embeds(case: Case) -> Verdict:
    try:
        config = tiny_config(CONFIG_MAPPING[case.model_type], **case.changes)
        model = tiny_model(MODEL_MAPPING[type(config)], config)
        prompts = [text_prompt(length).tokens for length in LENGTHS]
        with torch.inference_mode():
            states = [model(input_ids=torch.tensor([tokens])).last_hidden_state for tokens in prompts]
        wanted = [state[0].mean(0) for state in states]
    except Exception as error:  # noqa: BLE001 - transformers' own
        return Verdict("not built", _line(error))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        options = LoadOptions(torch.float32, torch.device("cpu"), lambda _: None)
        embedder = load_embedder(read_checkpoint(Path(folder)), Embedding(Pooling(("mean",))), options)
    rows = embedder.run(EmbeddingPlan(tuple(EncodedText(tuple(tokens)) for tokens in prompts)))
    found = [torch.frombuffer(bytearray(row), dtype=torch.float32) for row in rows]
    pairs = zip(found, wanted, strict=True)
    least = min(float(torch.cosine_similarity(mine, theirs, dim=0)) for mine, theirs in pairs)
    return Verdict("equal") if least > 1 - SAME else Verdict("differs", f"least cosine {least:.6f}")


def _ranks(case: Case) -> Verdict:
    prompts = [text_prompt(length).tokens for length in LENGTHS]
    pairs = [EncodedText(tuple(tokens), second=len(tokens) // 2) for tokens in prompts]
    try:
        config = tiny_config(CONFIG_MAPPING[case.model_type], **case.changes)
        config.num_labels, config.pad_token_id = 1, 0
        model = tiny_model(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)], config)
        wanted = torch.stack([_score(model, pair) for pair in pairs])
    except Exception as error:  # noqa: BLE001 - transformers' own
        return Verdict("not built", _line(error))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        options = LoadOptions(torch.float32, torch.device("cpu"), lambda _: None)
        ranker = load_ranker(read_checkpoint(Path(folder)), Ranking(), options)
    rows = ranker.run(EmbeddingPlan(tuple(pairs)))
    found = torch.cat([torch.frombuffer(bytearray(row), dtype=torch.float32) for row in rows])
    most = float((found - wanted).abs().max())
    return Verdict("equal") if most < SAME else Verdict("differs", f"most {most:.6f}")


@torch.inference_mode()
def _score(model: Any, pair: EncodedText) -> torch.Tensor:
    told = {"attention_mask": torch.ones(1, len(pair.tokens), dtype=torch.int64)}
    has_types = "token_type_ids" in inspect.signature(model.forward).parameters
    if has_types and (count := getattr(model.config, "type_vocab_size", None)):
        told["token_type_ids"] = torch.tensor([pair.types]).clamp(max=count - 1)
    score: torch.Tensor = torch.sigmoid(model(input_ids=torch.tensor([pair.tokens]), **told).logits[0, 0])
    return score


def _reason(error: ModelLoadError) -> str:
    reason = error.message.split("; transformers' decoders run")[0]
    return reason.partition(": ")[2] or reason


def _line(error: Exception) -> str:
    """Return type and beginning of an error's text, without what differs between machines."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:160]}"
