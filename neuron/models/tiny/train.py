"""Trains helexa-tiny from scratch: `python -m neuron.models.tiny.train --out DIR`.

Two CPU cores are enough. The seed fixes data and start, so two runs on one machine give the same weights. The
last step is `verify` in bfloat16 and float32; the exit code is 1 if an answer is not exact.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig, Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

from neuron.models.tiny import Handbook, load_handbook
from neuron.models.tiny.examples import FOREIGN_TOOLS, SYSTEM_PROMPTS, Encoded, Study, encode, exam
from neuron.models.tiny.tokenizer import (
    CONTEXT,
    END_OF_TEXT,
    END_OF_TURN,
    VOCABULARY,
    build_tokenizer,
    save_tokenizer,
)
from neuron.models.tiny.verify import Score, batches, collate, score, verify

SEED = 13131
STEPS = 1250  # a multiple of CHECK_STEPS; afterwards weak answers are repeated until none is left
MOST_STEPS = 3000
BATCH_TOKENS = 2560
POOL = 512  # cases sorted by length together, so that a batch needs little padding
PEAK_RATE = 2e-3
WARMUP_STEPS = 100
CHECK_STEPS = 125
FULL_EXAM_LOSS = 0.03


def new_tokenizer(handbook: Handbook) -> Any:
    return build_tokenizer(handbook, [*SYSTEM_PROMPTS, *map(json.dumps, FOREIGN_TOOLS)])


def loaded_model(directory: Path) -> Any:
    model = Qwen3ForCausalLM.from_pretrained(directory, dtype=torch.float32)
    model.train()
    return model


def new_model(tokenizer: Any) -> Any:
    end, text_end = tokenizer.convert_tokens_to_ids([END_OF_TURN, END_OF_TEXT])
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=text_end,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=[end, text_end], pad_token_id=text_end
    )
    return model


def deal(tokenizer: Any, study: Study) -> Iterator[list[Encoded]]:
    """Yield training batches without end."""
    cases, order = iter(study), random.Random(SEED)  # noqa: S311 - variety, not secrecy
    while True:
        pool = [encode(tokenizer, case) for case in islice(cases, POOL)]
        ready = list(batches(pool, BATCH_TOKENS))
        order.shuffle(ready)
        yield from ready


def rate(step: int) -> float:
    """Return the learning rate: warm-up, half a cosine down to a twentieth, then to zero before each check.

    At a steady rate each check would find other answers wrong: with hardly any loss left, Adam's steps are
    noise.
    """
    if step < WARMUP_STEPS:
        return PEAK_RATE * (step + 1) / WARMUP_STEPS
    if step >= STEPS:
        return 0.05 * PEAK_RATE * (1 - step % CHECK_STEPS / CHECK_STEPS)
    progress = (step - WARMUP_STEPS) / (STEPS - WARMUP_STEPS)
    return PEAK_RATE * (0.05 + 0.475 * (1 + math.cos(math.pi * progress)))


def learn(model: Any, optimizer: torch.optim.Optimizer, ids: torch.Tensor, learned: torch.Tensor) -> float:
    """Take a step and return the loss, which counts only the tokens that the model must produce itself."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[learned[:, 1:]])
    loss = torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][learned[:, 1:]])
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def served(model: Any) -> Any:
    """Return a copy as it is saved and served."""
    copy = Qwen3ForCausalLM(model.config).to(torch.bfloat16).eval()
    copy.load_state_dict(model.state_dict())
    copy.generation_config = model.generation_config
    return copy


class Training:
    """One run: a model, its optimizer, the cases that it learns and the exam that it must pass."""

    def __init__(self, handbook: Handbook, start: Path | None) -> None:
        torch.manual_seed(SEED)
        self.tokenizer = AutoTokenizer.from_pretrained(start) if start else new_tokenizer(handbook)
        self.study = Study(handbook, SEED)
        self.exam = [encode(self.tokenizer, case) for cases in exam(handbook).values() for case in cases]
        self.model = loaded_model(start) if start else new_model(self.tokenizer)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.first_step = STEPS if start else 0
        self.loss = 0.0 if start else math.inf  # running mean

    def run(self, out: Path) -> None:
        """Train until every answer has a safe margin. Each check saves the weights."""
        begun = time.monotonic()
        dealt = deal(self.tokenizer, self.study)
        for step in range(self.first_step, MOST_STEPS + 1):
            if step % CHECK_STEPS == 0 and step:
                result = self._check(out)
                seconds = time.monotonic() - begun
                report(f"step {step}  {seconds:.0f} s  loss {self.loss:.4f}  {result}")
                if result.asked == len(self.exam) and not result.weak:
                    return
            self._learn(next(dealt), rate(step))

    def _learn(self, batch: list[Encoded], rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = learn(self.model, self.optimizer, *collate(batch, self.tokenizer.pad_token_id))
        self.loss = loss if math.isinf(self.loss) else 0.98 * self.loss + 0.02 * loss

    def _check(self, out: Path) -> Score:
        """Ask a sample of the exam at first, all of it once the loss is low."""
        copy = served(self.model)
        copy.save_pretrained(out)
        save_tokenizer(self.tokenizer, out)
        sample = self.exam[:: 1 if self.loss < FULL_EXAM_LOSS else 8]
        result = score(copy, sample, self.tokenizer.pad_token_id)
        self.study.weak = result.weak
        return result


def report(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - a script


def main() -> int:
    parser = argparse.ArgumentParser(description="Train helexa-tiny from scratch.")
    parser.add_argument("--out", type=Path, required=True, help="directory for weights and tokenizer")
    parser.add_argument(
        "--start", type=Path, help="continue from these weights after an edit of the handbook"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    disable_progress_bar()
    handbook = load_handbook()
    Training(handbook, options.start).run(options.out)
    return 0 if verify(options.out, handbook) else 1


if __name__ == "__main__":
    sys.exit(main())
