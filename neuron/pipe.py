"""The messages between the daemon and a device worker: in batches, never tensors.

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

# How a worker exits, besides 0: when it was asked to, or the pipe was closed.
EXIT_POISONED = 70  # the device is unusable; its requests were answered
EXIT_CRASHED = 71  # an unexpected exception

_ids = itertools.count(1)


def next_id() -> int:
    """A number for a message to a worker, given to no other message of this process."""
    return next(_ids)


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the next token of a request is chosen; greedily when `temperature` is 0."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()  # token id, added to its logit
    seed: int | None = None  # None: the worker draws one
    top_logprobs: int | None = None  # likely tokens reported with each one drawn; None: no logprobs


# --- daemon to worker -------------------------------------------------------------------------------------


class GroupRank(msgspec.Struct, frozen=True):
    """A worker's place among those that a model is split over, and what they share: `neuron.segment`.

    The files have no names: their paths lead to file descriptors of the daemon.
    """

    index: int  # 0 schedules and samples
    size: int
    memory: str  # of the segment
    store: str  # by which torch.distributed finds the others
    wakes: list[str]  # a pipe for each rank, which gets a byte with each plan; rank 0's is not used
    timeout_s: float  # for another rank to come to the same point


class Load(msgspec.Struct, frozen=True, tag=True):
    """Load a local Hugging Face directory. Answered by `LoadProgress`, then `Loaded` or `LoadFailed`."""

    model: str
    path: str
    quant: str | None = None  # how plain numbers are quantized; None: not at all
    kv_dtype: str | None = None  # of its cached keys and values; None: the worker's own choice
    rank: GroupRank | None = None  # the part of it that is loaded; None: all
    speculation: str | None = None  # what drafts its answers; None: the worker's own choice
    base: str | None = None  # the loaded model that it is an adapter for; None: it is a model itself
    number: int = 0  # of an adapter, among those over its model
    draft: str | None = None  # the directory of a smaller model that drafts its answers


class Unload(msgspec.Struct, frozen=True, tag=True):
    """Drop a model; its requests end with `Refused` code `model_unloaded`. Answered by `Unloaded`.

    With `keep` it falls asleep where there is room: its weights stay in host memory until it is loaded again.
    """

    model: str
    keep: bool = False
    priority: int = 0  # of models that are asleep, the lowest is dropped first


class AnswerGrammar(msgspec.Struct, frozen=True):
    """The grammar of an answer, which ends where the grammar does."""

    lark: str  # in llguidance's dialect
    end_ids: list[int]  # the ids that may be sampled once the grammar is satisfied


class ImageSpan(msgspec.Struct, frozen=True):
    """An image in a prompt: its placeholders are among `tokens[start:end]`."""

    digest: bytes  # as `ImagesProcessed` tells it
    start: int
    end: int


class Submit(msgspec.Struct, frozen=True, tag=True):
    """Generate one answer."""

    id: int
    model: str
    tokens: list[int]
    max_tokens: int  # 0: the prompt is computed, and scored where that is asked for, and nothing else
    sampling: Sampling
    stop_ids: list[int]  # generation ends when one is sampled; it is not reported
    min_tokens: int = 0
    grammar: AnswerGrammar | None = None
    principal: str = ""  # who asks: principals share a busy model fairly
    priority: int = 0  # higher goes first, and may preempt lower
    marks: list[tuple[int, int]] = []  # digests of beginnings of the prompt, with their lengths in tokens
    images: list[ImageSpan] = []  # in the order of the prompt
    score_prompt: bool = False  # report the prompt's logprobs; none of it comes from the cache


class Embed(msgspec.Struct, frozen=True, tag=True):
    """Make a vector of each input, or a score of each pair by a model that ranks.

    Answered by `Embedded`, `Refused`, or `Finished` after a `Cancel`.
    """

    id: int
    model: str
    inputs: list[list[int]]
    num_prompt: int = 0  # tokens at the beginning of each input that are an instruction
    seconds: list[
        int
    ] = []  # of pairs: where the second text of each begins; empty where a class sees one text


class VideoFile(msgspec.Struct, frozen=True):
    """A video as image files, one for each of its frames."""

    frames: list[bytes]
    fps: float  # frames per second of what they show

    def __len__(self) -> int:
        return sum(map(len, self.frames))


class ProcessImages(msgspec.Struct, frozen=True, tag=True):
    """Process images and videos for a later `Submit`. Answered by `ImagesProcessed` or `Refused`, anytime."""

    id: int
    model: str
    images: list[bytes | VideoFile]


class ResetCache(msgspec.Struct, frozen=True, tag=True):
    """Forget what a model's cache keeps of ended requests. Answered by `Memory` or `Refused`."""

    id: int
    model: str


class AskMemory(msgspec.Struct, frozen=True, tag=True):
    """Ask for the free memory as it is now, not as of the last `Status`. Answered by `Memory`."""

    id: int


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """End a request whose client disconnected, before the next step. Answered by `Finished`."""

    id: int


class Shutdown(msgspec.Struct, frozen=True, tag=True):
    """Cancel all requests and end the process. Closing the pipe does the same."""


ToWorker = Load | Unload | Submit | Embed | ProcessImages | ResetCache | AskMemory | Cancel | Shutdown

# --- worker to daemon -------------------------------------------------------------------------------------


class Ready(msgspec.Struct, frozen=True, tag=True):
    """A worker's first message: its device is open and its thread runs."""

    pid: int
    thread: str  # cpu-dev-0, cuda-dev-N
    memory_total_mb: int


class LoadProgress(msgspec.Struct, frozen=True, tag=True):
    model: str
    fraction: float  # of the checkpoint's bytes, from 0 to 1


class ImageToken(msgspec.Struct, frozen=True):
    """How a model's prompts show images."""

    text: str  # what its chat template writes for an image
    id: int  # of a placeholder
    placeholder: str  # its text


class Loaded(msgspec.Struct, frozen=True, tag=True):
    model: str
    memory_mb: int  # measured growth, for weights and KV cache
    needed_mb: int  # the least free memory for it: weights, smallest cache, activations
    context: int  # the most tokens of a prompt and its answer together
    dimensions: int | None = None  # of its vectors, for a model that makes embeddings and nothing else
    image_token: ImageToken | None = None  # of a model that reads images
    format: str = ""  # that most of its weights are stored in
    bits_per_weight: float | None = None  # of all weights, scales included
    kv_dtype: str | None = None  # of its cached keys and values
    seconds: float = 0.0  # that it took
    was_asleep: bool = False
    ranks: bool = False  # whether its vectors are scores of pairs
    memory_parts: dict[str, int] = {}  # MiB of `memory_mb`, by what it is for
    video_token: ImageToken | None = None  # of a model whose prompts show videos, too


class LoadFailed(msgspec.Struct, frozen=True, tag=True):
    """The worker is as it was before the `Load`.

    `code` is model_not_found, model_unsupported, model_broken, insufficient_memory or, where another rank of
    the group failed, group_failed; `message` names file and cause.
    """

    model: str
    code: str
    message: str


class Unloaded(msgspec.Struct, frozen=True, tag=True):
    model: str
    host_mb: int | None = None  # of a model that is asleep now


class Dropped(msgspec.Struct, frozen=True, tag=True):
    """A model that was asleep is not any more: others needed its room."""

    model: str


class GroupLost(msgspec.Struct, frozen=True, tag=True):
    """A step of a model failed with its group: its part is dropped, and its requests are answered."""

    model: str
    message: str


class Logprob(msgspec.Struct, frozen=True, array_like=True):
    """The model's own logprobs, before any sampling rule, of a token and of the likeliest ones."""

    chosen: float
    top: tuple[tuple[int, float], ...]  # token id and logprob, likeliest first


class Tokens(msgspec.Struct, frozen=True, tag=True):
    """New tokens of a request, in order, each with a `Logprob` when they were asked for."""

    id: int
    tokens: list[int]
    logprobs: list[Logprob] = []


class Scored(msgspec.Struct, frozen=True, tag=True):
    """Logprobs of the next tokens of a prompt, from its second on; all before its first `Tokens`."""

    id: int
    logprobs: list[Logprob]


class Finished(msgspec.Struct, frozen=True, tag=True):
    """The request is over and its slot is free."""

    id: int
    reason: str  # stop | length | cancelled
    prompt_tokens: int
    completion_tokens: int  # sampled, the stop id that ended the answer included
    cached_tokens: int = 0  # of the prompt, taken from the KV cache
    stop_id: int | None = None  # the one that ended the answer
    queue_s: float = 0.0  # from its submission to its first step
    drafted_tokens: int = 0  # that were guessed
    accepted_tokens: int = 0  # of these, those that were right


class Embedded(msgspec.Struct, frozen=True, tag=True):
    """The vectors or scores of all inputs, one after the other, in little-endian float32."""

    id: int
    vectors: bytes


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The request did not run, or not to its end. Carries an HTTP status and code for the client."""

    id: int
    status: int
    # context_length_exceeded, invalid_request, invalid_grammar, grammar_exhausted, queue_full, queue_timeout,
    # model_unloaded, shutting_down, engine_error
    code: str
    message: str
    retry_after_s: int | None = None
    field: str = ""  # the field at fault: tokens, stop_ids or logit_bias of a `Submit`


class ModelStatus(msgspec.Struct, frozen=True):
    """How busy one model is. `rejected` counts since the load; `timed_out` is its part that had waited."""

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
    prefixes: list[int] = []  # digests of the beginnings of prompts in the cache
    drafted: int = 0  # tokens since the load
    accepted: int = 0  # of these, those that the model would have sampled, too


class ImagePlaceholder(msgspec.Struct, frozen=True, array_like=True):
    """How a prompt shows an image: `text` stands for it, with `num_tokens` placeholders in it."""

    digest: bytes  # of the file
    text: str
    num_tokens: int


class ImagesProcessed(msgspec.Struct, frozen=True, tag=True):
    """The placeholders of the images, up to the first that is not accepted: `problem` says why."""

    id: int
    placeholders: list[ImagePlaceholder]
    problem: str = ""


class Memory(msgspec.Struct, frozen=True, tag=True):
    """The device's memory, and the part of it that is free in small pieces."""

    id: int
    used_mb: int
    free_mb: int
    fragmented_mb: int = 0


class Status(msgspec.Struct, frozen=True, tag=True):
    """The state of a worker, sent by its device's thread: at most every `STATUS_INTERVAL_S` when it changed,
    and every `HEARTBEAT_S` as a sign of life. A worker that sends none is wedged.
    """

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
    | GroupLost
    | Dropped
    | Tokens
    | Scored
    | Finished
    | Embedded
    | ImagesProcessed
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
    """The messages of a frame's payload. Raises `msgspec.DecodeError`."""
    return _to_worker.decode(payload)


def decode_to_daemon(payload: bytes) -> list[ToDaemon]:
    """The messages of a frame's payload. Raises `msgspec.DecodeError`."""
    return _to_daemon.decode(payload)
