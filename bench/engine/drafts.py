"""Answers that repeat their prompt, and answers that only seem to, with drafts and without."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench import command
from bench.budget import Budget
from bench.engine.models import LEAST, SMALL, decoder_of, random_model, runner_of
from bench.engine.serving import Engine
from neuron.device.model_runner import ModelRunner
from neuron.engine.drafter import DraftSource, NgramDrafter

FIGURES = ("ngram_decode_over_plain", "ngram_decode_misled_over_plain")
PIECE = 80  # tokens that an answer copies at a time: a paragraph, a function
COPIED = 0.8  # of an answer


def measure(run: command.Run, folder: Path, budget: Budget) -> dict[str, Any]:
    shape = run.pick(SMALL, SMALL, LEAST)
    pieces, repeats = run.pick((6, 6), (3, 3), (1, 1))
    chain = saved_chain(folder / "model", shape)
    decoder = decoder_of(folder / "model", run.options.device, torch.bfloat16)
    runners = runner_of(decoder), runner_of(decoder)
    answer = chain[: int(PIECE * pieces / COPIED)]
    copied = repeated(answer, pieces)
    misled = misleading(answer, chain[len(answer) :])
    over = partial(decode_over_plain, runners, decoder.vocab_size, answer=answer, repeats=repeats)
    return {
        "ngram_decode_over_plain": over(budget.share(0.5), prompt=copied),
        "ngram_decode_misled_over_plain": over(budget.share(0.5), prompt=misled),
    }


def saved_chain(path: Path, shape: dict[str, int]) -> list[int]:
    """Save a model whose answers are known: each token is followed by the next of the chain, which is
    returned. Its layers are random and compute as any other's; what they add is too little to matter."""
    model = random_model(shape | {"tie_word_embeddings": False}, torch.bfloat16)
    vocab = shape["vocab_size"]
    chain = torch.randperm(vocab, generator=torch.Generator().manual_seed(1))
    embeddings = torch.randn(vocab, shape["hidden_size"]).to(torch.bfloat16)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(50 * embeddings)
        model.get_output_embeddings().weight[chain.roll(-1)] = embeddings[chain]
    model.save_pretrained(path)
    numbers: list[int] = chain.tolist()
    return numbers


def repeated(answer: list[int], pieces: int) -> list[int]:
    """A prompt with pieces of its answer, in another order, and the token before the answer last."""
    step = len(answer) // pieces
    found = [answer[start : start + PIECE] for start in range(0, pieces * step, step)]
    return [token for piece in reversed(found) for token in piece]


def misleading(answer: list[int], others: list[int]) -> list[int]:
    """A prompt with every three tokens of its answer, each time followed by what the answer does not say."""
    grams = [(*answer[at : at + 3], others[at]) for at in range(len(answer) - 3)]
    return [token for gram in reversed(grams) for token in gram]


def decode_over_plain(
    runners: Sequence[ModelRunner],
    vocab_size: int,
    budget: Budget,
    *,
    answer: list[int],
    prompt: list[int],
    repeats: int,
) -> float:
    """The tokens a second of one answer with drafts, over those without; its prompt is cached.

    Both are written at once, token by token in turns, and of each step the best time of all turns counts:
    whatever else the machine does meanwhile is in neither.
    """

    def turn() -> list[list[float]]:
        sides = zip(runners, (DraftSource(NgramDrafter), None), strict=True)
        answers = [Engine(runner, vocab_size=vocab_size, drafts=drafts) for runner, drafts in sides]
        for engine in answers:
            number = engine.submit([*prompt, answer[0]], len(answer) - 1)
            while not engine.tokens[number]:
                engine.step()
            engine.step_s.clear()
        while any(len(engine.tokens[number]) < len(answer) - 1 for engine in answers):
            min(answers, key=lambda engine: len(engine.tokens[number])).step()
        assert all(engine.tokens[number] == answer[1:] for engine in answers)
        return [engine.step_s for engine in answers]

    turns = [turn() for _ in budget.rounds(1 + repeats, "answers")]
    drafted_s, plain_s = (
        sum(map(min, zip(*steps, strict=True))) for steps in zip(*(turns[1:] or turns), strict=True)
    )
    return plain_s / drafted_s
