"""Trains helexa-tiny from scratch: `python -m neuron.models.tiny.train --out DIR`.

Two CPU cores are enough. The seed fixes data and start, so two runs on one machine give the same weights. It
ends with the verification of `verify`, in bfloat16 and float32, and exit code 1 where an answer is not exact.
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
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM
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
from neuron.models.tiny.verify import batches, collate, score, verify

SEED = 13131
STEPS = 1500
BATCH_TOKENS = 2560
POOL = 512  # cases sorted by length together, so that a batch needs little padding
PEAK_RATE = 2e-3
WARMUP_STEPS = 100
CHECK_STEPS = 250
ENOUGH_MARGIN = 1.5  # logits; bfloat16 rounds them by some 0.1


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


def deal(tokenizer: Any, handbook: Handbook) -> Iterator[list[Encoded]]:
    """Endless training batches."""
    study = iter(Study(handbook, SEED))
    order = random.Random(SEED)  # noqa: S311 - variety, not secrecy
    while True:
        pool = [encode(tokenizer, case, history=True) for case in islice(study, POOL)]
        ready = list(batches(pool, BATCH_TOKENS))
        order.shuffle(ready)
        yield from ready


def rate(step: int) -> float:
    """Warm-up, then half a cosine down to a fiftieth."""
    if step < WARMUP_STEPS:
        return PEAK_RATE * (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / (STEPS - WARMUP_STEPS)
    return PEAK_RATE * (0.02 + 0.49 * (1 + math.cos(math.pi * progress)))


def learn(model: Any, optimizer: torch.optim.Optimizer, ids: torch.Tensor, learned: torch.Tensor) -> float:
    """One step; the loss counts only what the model itself must say."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[learned[:, 1:]])
    loss = torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][learned[:, 1:]])
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def save(model: Any, tokenizer: Any, out: Path) -> None:
    served = Qwen3ForCausalLM(model.config).to(torch.bfloat16)
    served.load_state_dict(model.state_dict())
    served.generation_config = model.generation_config
    served.save_pretrained(out)
    save_tokenizer(tokenizer, out)


def train(out: Path, handbook: Handbook) -> None:
    """Stops as soon as every answer of the exam has a safe margin; keeps what it has after each check."""
    torch.manual_seed(SEED)
    tokenizer = build_tokenizer(handbook, [*SYSTEM_PROMPTS, *map(json.dumps, FOREIGN_TOOLS)])
    pad = tokenizer.pad_token_id
    asked = [case for cases in exam(handbook).values() for case in cases]
    questions = [encode(tokenizer, case, history=False) for case in asked]
    model = new_model(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    start, mean, tokens = time.monotonic(), 0.0, 0
    for step, batch in enumerate(islice(deal(tokenizer, handbook), STEPS)):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        loss = learn(model, optimizer, *collate(batch, pad))
        mean = loss if step == 0 else 0.98 * mean + 0.02 * loss
        tokens += sum(len(example.ids) for example in batch)
        if (step + 1) % CHECK_STEPS and step + 1 < STEPS:
            continue
        result = score(model.eval(), questions[:: 1 if mean < 0.02 else 8], pad)
        model.train()
        seconds = time.monotonic() - start
        speed = f"{seconds:.0f} s  {tokens / seconds:.0f} tokens/s"
        report(f"step {step + 1}/{STEPS}  {speed}  loss {mean:.4f}  {result}")
        save(model, tokenizer, out)
        if result.asked == len(questions) and result.margin > ENOUGH_MARGIN:
            return


def report(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - a script


def main() -> int:
    parser = argparse.ArgumentParser(description="Train helexa-tiny from scratch.")
    parser.add_argument("--out", type=Path, required=True, help="directory for weights and tokenizer")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    disable_progress_bar()
    handbook = load_handbook()
    train(options.out, handbook)
    return 0 if verify(options.out, handbook) else 1


if __name__ == "__main__":
    sys.exit(main())
