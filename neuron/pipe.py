"""What the daemon and a device worker say to each other: whole messages in batches, never tensors.

A frame is a 4-byte big-endian length and a msgpack array of messages. The daemon writes `ToWorker`, the
worker writes `ToDaemon`. The daemon numbers its requests, and no two alike (`next_id`). Every `Submit` is
answered by exactly one `Finished` or `Refused`, also after a `Cancel`; a worker that dies answers nothing,
and the daemon ends its requests.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgspec

MAX_FRAME_BYTES = 256 << 20
HEADER_BYTES = 4

# How a worker ends, beside 0: asked to, or the pipe was closed.
EXIT_POISONED = 70  # the device cannot be trusted any more; its requests were answered
EXIT_CRASHED = 71  # a mistake of the worker's own

_ids = itertools.count(1)


def next_id() -> int:
    """A number for a message to a worker, given to no other message of this process."""
    return next(_ids)


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How to choose the next token of one request. Greedy when `temperature` is 0."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()  # token id, added to its logit
    seed: int | None = None  # None: the worker draws one
    top_logprobs: int | None = None  # alternatives reported beside the token drawn; None: no logprobs


# --- daemon to worker -------------------------------------------------------------------------------------


class Load(msgspec.Struct, frozen=True, tag=True):
    """Load a local Hugging Face directory. Answered by some `LoadProgress`, then `Loaded` or `LoadFailed`."""

    model: str
    path: str


class Unload(msgspec.Struct, frozen=True, tag=True):
    """Drop a model; its requests end with `Refused` code `model_unloaded`. Answered by `Unloaded`."""

    model: str


class Guide(msgspec.Struct, frozen=True):
    """What an answer has to look like: it ends where the grammar does."""

    grammar: str  # in llguidance's dialect of Lark
    end_ids: list[int]  # what may be sampled once the grammar is satisfied


class Shown(msgspec.Struct, frozen=True):
    """An image in a prompt, as `Looked` told of it; its placeholders lie among `tokens[start:end]`."""

    digest: bytes
    start: int
    end: int


class Submit(msgspec.Struct, frozen=True, tag=True):
    """Run one request."""

    id: int
    model: str
    tokens: list[int]
    max_tokens: int
    sampling: Sampling
    stop_ids: list[int]  # generation ends when one is sampled; it is not reported
    min_tokens: int = 0
    ignore_eos: bool = False
    guide: Guide | None = None
    principal: str = ""  # whose request it is: principals share a busy model fairly
    priority: int = 0  # higher goes first, and may preempt lower
    marks: list[tuple[int, int]] = []  # digest of a beginning of the prompt, and its length in tokens
    images: list[Shown] = []  # in the order of the prompt
    score_prompt: bool = False  # tell the prompt's own logprobs too; nothing of it is taken from the cache


class Embed(msgspec.Struct, frozen=True, tag=True):
    """Make a vector of each input. Answered by `Embedded`, `Refused`, or `Finished` after a `Cancel`."""

    id: int
    model: str
    inputs: list[list[int]]


class Look(msgspec.Struct, frozen=True, tag=True):
    """Read image files, for a `Submit` that shows them. Answered by `Looked` or `Refused`, at any time."""

    id: int
    model: str
    images: list[bytes]


class ResetCache(msgspec.Struct, frozen=True, tag=True):
    """Forget what a model's cache keeps of requests that ended. Answered by `Memory` or `Refused`."""

    id: int
    model: str


class AskMemory(msgspec.Struct, frozen=True, tag=True):
    """How much is free now, not when the last `Status` was sent. Answered by `Memory`."""

    id: int


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """The client went away: free the request's slot and pages at the next step. Answered by `Finished`."""

    id: int


class Shutdown(msgspec.Struct, frozen=True, tag=True):
    """End the process once what runs is cancelled. Closing the pipe does the same."""


ToWorker = Load | Unload | Submit | Embed | Look | ResetCache | AskMemory | Cancel | Shutdown

# --- worker to daemon -------------------------------------------------------------------------------------


class Ready(msgspec.Struct, frozen=True, tag=True):
    """First message of a worker: its device is open and its thread runs."""

    pid: int
    thread: str  # cpu-dev-0, cuda-dev-N
    memory_total_mb: int


class LoadProgress(msgspec.Struct, frozen=True, tag=True):
    model: str
    fraction: float  # of the checkpoint's bytes, 0..1


class Sight(msgspec.Struct, frozen=True):
    """How a model is shown images."""

    marker: str  # what its chat template writes for an image
    token_id: int  # of a placeholder


class Loaded(msgspec.Struct, frozen=True, tag=True):
    model: str
    memory_mb: int  # measured growth: weights and KV cache
    needed_mb: int  # with so much free it could have been loaded: weights, least cache, activations
    context: int  # tokens a request may have, prompt and answer together
    dimensions: int | None = None  # of its vectors, when it makes embeddings and nothing else
    sight: Sight | None = None  # when it reads images


class LoadFailed(msgspec.Struct, frozen=True, tag=True):
    """The worker is as it was before the `Load`. `code`: model_not_found, model_unsupported, model_broken,
    insufficient_memory; `message` names file and cause."""

    model: str
    code: str
    message: str


class Unloaded(msgspec.Struct, frozen=True, tag=True):
    model: str


class Logprob(msgspec.Struct, frozen=True, array_like=True):
    """How probable the model itself, before any sampling rule, held a token, and which it held likeliest."""

    chosen: float
    top: tuple[tuple[int, float], ...]  # token id and logprob, likeliest first


class Tokens(msgspec.Struct, frozen=True, tag=True):
    """New tokens of a request, in order; with a `Logprob` each where they were asked for."""

    id: int
    tokens: list[int]
    logprobs: list[Logprob] = []


class Scored(msgspec.Struct, frozen=True, tag=True):
    """How probable the next tokens of a prompt were, from its second on; all before its first `Tokens`."""

    id: int
    logprobs: list[Logprob]


class Finished(msgspec.Struct, frozen=True, tag=True):
    """The request is over and its slot is free."""

    id: int
    reason: str  # stop | length | cancelled
    prompt_tokens: int
    completion_tokens: int  # sampled, the stop id that ended the answer included
    cached_tokens: int = 0  # of the prompt, found in the KV cache


class Embedded(msgspec.Struct, frozen=True, tag=True):
    """The vectors of all inputs, one after the other, in little-endian float32."""

    id: int
    vectors: bytes


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The request did not run, or could not run to its end. An HTTP status and code for the client."""

    id: int
    status: int
    # context_length_exceeded, invalid_request, invalid_grammar, queue_full, queue_timeout, model_not_loaded,
    # model_unloaded, shutting_down, engine_error
    code: str
    message: str
    retry_after_s: int | None = None


class ModelStatus(msgspec.Struct, frozen=True):
    """How busy one model is; `rejected` counts since the load, `timed_out` those of them that had waited."""

    model: str
    running: int
    waiting: int
    max_running: int
    max_waiting: int
    kv_pages_free: int
    kv_pages_total: int
    tok_s_prefill: float
    tok_s_decode: float
    rejected: int
    timed_out: int = 0
    prefixes: list[int] = []  # digests of resident beginnings of prompts


class Looked(msgspec.Struct, frozen=True, tag=True):
    """Of each image its digest, the text that stands for it, and the placeholders in that."""

    id: int
    seen: list[tuple[bytes, str, int]]
    problem: str = ""  # of the image after those: why it is not taken


class Memory(msgspec.Struct, frozen=True, tag=True):
    """Of the device, and what lies fragmented in it."""

    id: int
    used_mb: int
    free_mb: int
    fragmented_mb: int = 0


class Status(msgspec.Struct, frozen=True, tag=True):
    """Sent when something changed, at most every `STATUS_INTERVAL_S`, and as a sign of life every
    `HEARTBEAT_S` from the device's own thread: a worker that sends none is wedged."""

    memory_used_mb: int
    memory_free_mb: int
    models: list[ModelStatus]
    fragmented_mb: int = 0


ToDaemon = (
    Ready
    | LoadProgress
    | Loaded
    | LoadFailed
    | Unloaded
    | Tokens
    | Scored
    | Finished
    | Embedded
    | Looked
    | Memory
    | Refused
    | Status
)

STATUS_INTERVAL_S = 0.25
HEARTBEAT_S = 2.0

_encoder = msgspec.msgpack.Encoder()
_to_worker = msgspec.msgpack.Decoder(list[ToWorker])
_to_daemon = msgspec.msgpack.Decoder(list[ToDaemon])


def frame(messages: Sequence[ToWorker] | Sequence[ToDaemon]) -> bytes:
    """One frame holding all of `messages`."""
    payload = _encoder.encode(messages)
    return len(payload).to_bytes(HEADER_BYTES, "big") + payload


def decode_to_worker(payload: bytes) -> list[ToWorker]:
    """The messages of one frame's payload; `msgspec.DecodeError` when it is not one."""
    return _to_worker.decode(payload)


def decode_to_daemon(payload: bytes) -> list[ToDaemon]:
    """The messages of one frame's payload; `msgspec.DecodeError` when it is not one."""
    return _to_daemon.decode(payload)
