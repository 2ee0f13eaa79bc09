"""The engine beside transformers, same weights, same threads: python -m bench.engine [--only GROUP …]

Ratios are of runs that alternate, the best of each side: on a shared machine read the ratios, not the speeds.
`generate` gets what suits it: prompts of one length, no padding, no end before the last token. What is
measured comes in groups, each with a budget of its own. `dense`, in bfloat16; what else it measured is in
`runs`:

    decode_1_over_generate         tokens a second of one request, over `generate`
    total_16_over_static           of 16 requests, over `generate` of a batch of 16
    total_16_over_generate_batch   of 16 requests, over transformers' continuous batching
    ttft_warm_over_cold            time to a first token behind a cached prefix of 2000 tokens, over a new one
    gap_p99_over_p50               gaps of 8 streams while a long prompt comes in, over their median gap alone
    matmul_fraction                a decode step's matrix products, as torch has them, over the step's time
    bandwidth_fraction             bytes of weights over the step's time, over the memory's bandwidth
    overhead_us_per_step           of a decode step of 16 requests, what is not the device's

`families`, in bfloat16, a model of each kind of layers:

    hybrid_decode_1_over_generate  of Qwen3.5's shape (gated delta rule): as above
    hybrid_total_16_over_static    as above
    hybrid_ttft_turn2_over_turn1   time to the first token of a second turn of 20 tokens, over the first's
    moe_total_16_over_generate_batch  of Qwen3-MoE's shape, 8 of 64 experts active: as above
    moe_total_16_over_dense        of 16 requests, over a dense model as large as what is active
    mla_bytes_per_token            of DeepSeek V3's attention: what a token takes, over its latents
    mla_decode_1_over_heads        decode steps a second with 1000 tokens cached, over those with heads cached
    mla_decode_16_over_heads       the same of 16 requests
    mla_prefill_over_heads         prompts of 1000 tokens a second, over those with heads cached

`weights`, of the formats that weights are stored in, over llama.cpp with the same weights, and of loads that
map their file, quantize it on the way on one core (`in_situ`), or map what such a load has kept (`packed`):

    decode_1_over_llama_f32, decode_1_over_llama_bf16        tokens a second of one request
    decode_1_over_llama_q8_0, decode_1_over_llama_q4_0       the same
    total_16_over_llama_f32, total_16_over_llama_bf16        of 16 requests
    total_16_over_llama_q8_0, total_16_over_llama_q4_0       the same
    prefill_512_over_llama_f32, prefill_512_over_llama_bf16  of a prompt of 512 tokens
    prefill_512_over_llama_q8_0, prefill_512_over_llama_q4_0  the same
    bandwidth_fraction_f32, bandwidth_fraction_q8_0          bytes of weights over a decode step's time, over
                                                             what a loop in C reads from memory
    load_s_over_read_mapped, load_s_over_read_in_situ        a load's time over that of reading the file once
    load_s_over_read_packed                                  the same
    peak_over_size_mapped, peak_over_size_in_situ            the most memory that a load takes, over the model
    peak_over_size_packed                                    the same

`senses`, what an engine does besides:

    ngram_decode_over_plain        tokens a second of an answer that copies 80 % of its prompt, over those
                                   without drafts
    ngram_decode_misled_over_plain  the same of an answer whose drafts are all wrong
    head_decode_misled_over_plain  seconds of CPU of an answer of a model that keeps states, over those with a
                                   multi-token head whose guesses are all wrong
    lora_16_over_base              tokens a second of 16 requests on 8 adapters of rank 8 for queries and
                                   values, over those of 16 requests on the model itself
    lora_load_ms                   to load one of these adapters
    image_first_over_reference     time to the first token after a megapixel image, over transformers'
    image_gap_p99_over_alone       gaps of streams beside eight such prompts, over their gaps alone
    rerank_over_reference          time for 64 pairs, over sentence-transformers' `CrossEncoder`, if installed
    embed_over_reference           time for 256 texts of mixed length, over its `encode`

Common to all:

    runs                           everything, by kind of weights

Options and the other keys of the result are those of `bench.command`. Keys of groups that were not asked for
are null.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import torch
import transformers

from bench import command, inference
from bench.budget import Budget
from bench.engine import dense, families, senses, weights
from bench.engine.llama import LLAMA

GROUPS = {"dense": dense, "families": families, "weights": weights, "senses": senses}


def measure(run: command.Run) -> dict[str, Any]:
    inference.set_up(run.options.threads)
    figures: dict[str, Any] = {key: None for group in GROUPS.values() for key in group.FIGURES}
    runs: dict[str, Any] = {}
    for name in run.options.only:
        budget = Budget(run.budget.seconds, shortened=run.budget.shortened)
        measured = GROUPS[name].measure(replace(run, budget=budget))
        runs |= measured.pop("runs")
        figures |= measured
    return figures | {"runs": runs, "machine": _described(run.options)}


def _described(options: argparse.Namespace) -> dict[str, Any]:
    is_cuda = options.device.type == "cuda"
    name = torch.cuda.get_device_name(options.device) if is_cuda else torch.backends.cpu.get_cpu_capability()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return versions | {"threads": options.threads, "device": name}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu or cuda:N")
    parser.add_argument(
        "--only", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="GROUP", help=", ".join(GROUPS)
    )


if __name__ == "__main__":
    command.run(
        "engine",
        __doc__,
        measure,
        peers=[LLAMA],
        add_options=add_options,
        needs_peers=lambda options: "weights" in options.only,
    )
