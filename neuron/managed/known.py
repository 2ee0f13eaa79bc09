"""The engines that are known: a row for each."""

from __future__ import annotations

import re

from neuron.managed.engine import Engine, Sleep, Symptom

PORT_TAKEN = "port_taken"

_PORT = Symptom(re.compile(r"address already in use|couldn't bind|EADDRINUSE", re.IGNORECASE), PORT_TAKEN)
_TORCH = (
    _PORT,
    Symptom(
        re.compile(
            r"out of memory|OutOfMemoryError|No available memory for the cache blocks|Not enough memory"
            r"|less than desired GPU memory utilization|larger than the maximum number of tokens",
            re.IGNORECASE,
        ),
        "insufficient_memory",
    ),
    Symptom(
        re.compile(
            r"architectures? .{0,200}(are|is) not supported|not supported for now|must be divisible by"
            r"|is not divisible by|Unknown quantization method",
            re.IGNORECASE,
        ),
        "model_unsupported",
    ),
)
_OPENAI = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/embeddings"})
_RANKING = frozenset({"/v1/rerank", "/v2/rerank", "/v1/score"})
_SHARDS = re.compile(r"checkpoint shards:\s+(\d{1,3})%")

VLLM = Engine(
    name="vllm",
    command=("vllm", "serve"),
    arguments=("{model}", "--host", "127.0.0.1", "--port", "{port}", "--served-model-name", "{name}"),
    quant=("--quantization", "{quant}"),
    split=("--tensor-parallel-size", "{devices}"),
    share=("--gpu-memory-utilization", "{fraction}"),
    key_variable="VLLM_API_KEY",
    options=frozenset(
        {
            *("async-scheduling", "block-size", "cpu-offload-gb", "data-parallel-size", "dtype"),
            *("distributed-executor-backend", "enable-auto-tool-choice", "enable-expert-parallel"),
            *("enable-prefix-caching", "enforce-eager", "gpu-memory-utilization", "kv-cache-dtype"),
            *("limit-mm-per-prompt", "master-addr", "master-port", "max-logprobs", "max-model-len"),
            *("max-num-batched-tokens", "max-num-seqs", "nnodes", "node-rank", "pipeline-parallel-size"),
            *("quantization", "reasoning-parser", "runner", "seed", "tensor-parallel-size"),
            *("tokenizer-mode", "tool-call-parser"),
        }
    ),
    paths=_OPENAI | _RANKING | {"/tokenize", "/detokenize"},
    progress=_SHARDS,
    symptoms=_TORCH,
    context=("max_model_len",),
    sleep=Sleep(
        sleep="/sleep?level=1",
        wake="/wake_up",
        arguments=("--enable-sleep-mode",),
        environment=(("VLLM_SERVER_DEV_MODE", "1"),),
    ),
    environment=(("VLLM_NO_USAGE_STATS", "1"),),
)

SGLANG = Engine(
    name="sglang",
    command=("sglang", "serve"),
    arguments=(
        *("--model-path", "{model}", "--host", "127.0.0.1", "--port", "{port}"),
        *("--served-model-name", "{name}"),
    ),
    quant=("--quantization", "{quant}"),
    split=("--tp-size", "{devices}"),
    share=("--mem-fraction-static", "{fraction}"),
    options=frozenset(
        {
            *("attention-backend", "chunked-prefill-size", "context-length", "cpu-offload-gb"),
            *("cuda-graph-max-bs", "disable-cuda-graph", "dist-init-addr", "dp-size", "dtype", "ep-size"),
            *("kv-cache-dtype", "max-running-requests", "max-total-tokens", "mem-fraction-static"),
            *("nnodes", "node-rank", "page-size", "pp-size", "quantization", "reasoning-parser"),
            *("schedule-policy", "tool-call-parser", "tp-size"),
        }
    ),
    paths=_OPENAI | {"/v1/rerank", "/v1/score"},
    ready_line=re.compile(r"The server is fired up and ready to roll"),
    progress=_SHARDS,
    symptoms=_TORCH,
    context=("max_model_len",),
    sleep=Sleep(
        sleep="/release_memory_occupation",
        wake="/resume_memory_occupation",
        arguments=("--enable-memory-saver", "--enable-weights-cpu-backup"),
        body=b"{}",
    ),
)

LLAMA_SERVER = Engine(
    name="llama-server",
    command=("llama-server",),
    arguments=(
        *("--model", "{model}", "--host", "127.0.0.1", "--port", "{port}", "--alias", "{name}"),
        *("--jinja", "--no-webui"),
    ),
    files="gguf",
    key_variable="LLAMA_API_KEY",
    options=frozenset(
        {
            *("batch-size", "cache-reuse", "cache-type-k", "cache-type-v", "cpu-moe", "ctx-size"),
            *("embeddings", "flash-attn", "kv-unified", "main-gpu", "n-cpu-moe", "n-gpu-layers"),
            *("n-predict", "no-kv-offload", "no-mmap", "parallel", "pooling", "reasoning-budget"),
            *("reasoning-format", "reranking", "rope-freq-base", "rope-freq-scale", "split-mode"),
            *("tensor-split", "threads", "threads-batch", "ubatch-size"),
        }
    ),
    paths=_OPENAI | {"/v1/rerank"},
    symptoms=(
        _PORT,
        Symptom(
            re.compile(
                r"out of memory|failed to allocate|unable to allocate|ErrorOutOfDeviceMemory", re.IGNORECASE
            ),
            "insufficient_memory",
        ),
        Symptom(
            re.compile(r"unknown model architecture|unknown pre-tokenizer", re.IGNORECASE),
            "model_unsupported",
        ),
    ),
    context=("meta", "n_ctx"),
)

ENGINES = (VLLM, SGLANG, LLAMA_SERVER)
