"""The models on one device, and the memory they share."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from neuron.device.cuda_graphs import Capture, CudaGraphCapture
from neuron.device.kv_cache import KVShape, bytes_per_token
from neuron.device.memory import (
    MIB,
    OutOfMemoryError,
    bytes_fragmented,
    bytes_in_use,
    default_budget,
    release_unused,
)
from neuron.device.model_runner import ModelRunner
from neuron.device.page_pool import CODINGS, Coding
from neuron.device.startup import AcceleratorError, Device
from neuron.device.state_pool import bytes_per_slot
from neuron.device.varlen import find_coded_kernel, find_varlen_kernel, select_kernel
from neuron.engine.embedding_scheduler import EmbeddingScheduler
from neuron.engine.request import GrammarMatcher
from neuron.engine.scheduler import Scheduler
from neuron.engine.scheduler_limits import SchedulerLimits
from neuron.models.architecture import decoder_class
from neuron.models.checkpoint import Checkpoint, ModelLoadError, model_broken
from neuron.models.decoder import AnyDecoder, load_decoder, model_dtype
from neuron.models.embedder import embedder_class, load_embedder
from neuron.models.image_input import ImageProcessor
from neuron.models.in_situ.checkpoint import in_situ
from neuron.models.mapped_file import MappedFile, still_mapped
from neuron.models.memory_estimate import MemoryEstimate, estimate_memory, stored_format, weight_bytes
from neuron.models.pooling import Pooling, read_pooling
from neuron.models.reading import read_checkpoint
from neuron.models.weights import MAX_IMAGE_PIXELS, LoadOptions, OnProgress
from neuron.pipe import Embed, Finished, ModelStatus, Refused, Submit, ToDaemon
from neuron.step import CacheShape, PoisonedError, PromptImage, PromptRule

log = logging.getLogger("neuron.worker")

_MIN_CONTEXT = 256  # tokens; a model whose cache holds less is useless
_KV_SHARE = 0.5  # of what the weights leave; the rest is for the next model and for activations
_STATE_SHARE = 0.25  # of the same, for what layers keep of sequences besides keys and values
_CPU_KV_BYTES = 256 * MIB  # enough on a CPU, unless one context is longer


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What a worker is told about all its models. None: it finds out itself."""

    memory_mb: int | None = None  # for everything: torch itself, weights and caches
    kv_mb: int | None = None  # for the cache of each model
    dtype: str | None = None
    kv_dtype: str = "auto"  # of `page_pool.KV_DTYPES`, for models that are loaded without one
    allow_unexpected_tensors: bool = False  # that a model's configuration has no place for
    max_image_pixels: int = MAX_IMAGE_PIXELS
    limits: SchedulerLimits = field(default_factory=SchedulerLimits)


class RequestScheduler(Protocol):
    """What the device's loop needs of a scheduler. Plans and results pass between it and its runner only."""

    model: str

    @property
    def request_type(self) -> type[Submit | Embed]:
        """The type of the requests it takes."""
        ...

    @property
    def has_work(self) -> bool: ...

    def submit(
        self,
        message: Any,
        now: float,
        matcher: GrammarMatcher | None = None,
        images: Sequence[PromptImage] = (),
        /,
    ) -> Refused | None: ...

    def cancel(self, request_id: int) -> Finished | None: ...

    def expire(self, now: float) -> list[Refused]: ...

    def end_all(self, code: str, message: str, retry_after_s: int) -> list[Refused]: ...

    def reset_cache(self) -> None: ...

    def plan(self) -> Any: ...

    def apply(self, plan: Any, result: Any, seconds: float, /) -> Sequence[ToDaemon]: ...

    def fail(self, plan: Any, message: str) -> list[Refused]: ...

    def status(self) -> ModelStatus: ...


class StepRunner(Protocol):
    """What the device's loop needs of a runner: it runs the plans of its scheduler."""

    shape: CacheShape

    def run(self, plan: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class ResidentModel:
    """One model in the device's memory."""

    scheduler: RequestScheduler
    runner: StepRunner
    num_bytes: int  # measured for the weights, reserved for the cache
    path: Path
    needed_bytes: int  # the least free memory with which it could have been loaded
    stored: tuple[str, float]  # the format of most of its weights, and bits per weight
    files: Sequence[MappedFile] = ()  # that its weights are read from at every step
    image_processor: ImageProcessor | None = None  # of a vision model
    kv_dtype: str | None = None  # of its pages; None: it has none

    @property
    def damage(self) -> str | None:
        """What has become of a file that the weights are in, with its cure; None while all are whole."""
        for file in self.files:
            if found := file.damage():
                return f"{file.path} {found} while it was in use; unload the model and load it again"
        return None

    @property
    def needed_mb(self) -> int:
        return -(-self.needed_bytes // MIB)

    @property
    def memory_mb(self) -> int:
        return -(-self.num_bytes // MIB)


class ModelPool:
    """Loads and drops the models of one device. A failed load leaves it as it was."""

    def __init__(self, device: Device, settings: WorkerSettings) -> None:
        self.device = device
        self.settings = settings
        self.models: dict[str, ResidentModel] = {}
        self._kernel = find_varlen_kernel() if device.type == "cuda" else None
        self._coded_kernel = find_coded_kernel() if device.type == "cuda" else None
        self._own_bytes = bytes_in_use(device)  # torch, transformers, the device's context
        self.budget = default_budget(device) if settings.memory_mb is None else settings.memory_mb * MIB

    @property
    def fragmented(self) -> int:
        """Free bytes that no large tensor gets; see `bytes_fragmented`."""
        return bytes_fragmented(self.device)

    @property
    def used(self) -> int:
        """Bytes that are taken or reserved, whether written already or not."""
        return self._own_bytes + sum(resident.num_bytes for resident in self.models.values())

    @property
    def free(self) -> int:
        return max(0, self.budget - self.used)

    def load(
        self,
        model: str,
        path: Path,
        on_progress: OnProgress,
        *,
        quant: str | None = None,
        kv_dtype: str | None = None,
    ) -> ResidentModel:
        """Return the model, loaded from `path` and quantized by `quant` unless it is here already.

        Raises ModelLoadError, and PoisonedError when the device is unusable from now on.
        """
        if model in self.models:
            return self.models[model]
        before = bytes_in_use(self.device)
        try:
            coding = CODINGS.get(kv_dtype or self.settings.kv_dtype)
            self.models[model] = self._load(model, path, quant, coding, on_progress, before)
        except (OutOfMemoryError, MemoryError) as error:
            raise ModelLoadError("insufficient_memory", f"{path}: {error or 'out of memory'}") from error
        except AcceleratorError as error:
            raise PoisonedError(f"the device failed: {error}") from error
        return self.models[model]

    def unload(self, model: str) -> ResidentModel | None:
        """Take the model out and return it, or None when it is not here.

        Its memory is free once the caller has dropped it and called `release_unused`.
        """
        return self.models.pop(model, None)

    def release_unused(self) -> None:
        """Return freed memory to the system."""
        release_unused(self.device)

    def _load(
        self,
        model: str,
        path: Path,
        quant: str | None,
        coding: Coding | None,
        on_progress: OnProgress,
        before: int,
    ) -> ResidentModel:
        checkpoint = read_checkpoint(path)
        dtype = model_dtype(checkpoint, self.settings.dtype)
        pooling = read_pooling(path)
        if quant:
            checkpoint = in_situ(checkpoint, quant, embedder_class if pooling else decoder_class)
        if pooling:
            return self._load_embedder(model, checkpoint, dtype, pooling, on_progress)
        limits = self.settings.limits
        estimate = self._estimate(checkpoint, dtype, coding, step_tokens=limits.step_tokens)
        self._check_room(path, "it takes about", str(estimate), estimate.total, self.free)
        options = self._load_options(dtype, on_progress)
        with _whole_files(checkpoint):
            decoder = load_decoder(checkpoint, options)
        options.on_progress(1.0)
        release_unused(self.device)
        _check_coding(path, decoder.layers, coding)
        if decoder.prompt_rule is PromptRule.WHOLE:
            whole = max(limits.step_tokens, decoder.context)
            estimate = self._estimate(checkpoint, dtype, coding, step_tokens=whole)
        # Less than the estimate is measured where the process could reuse freed memory.
        weights = max(bytes_in_use(self.device) - before, estimate.weights)
        kernel, page_size = select_kernel(
            self._coded_kernel if coding else self._kernel, decoder.layers, decoder.dtype, self.device, coding
        )
        token_bytes = bytes_per_token(decoder.layers, decoder.dtype, coding)
        free = self.free - weights - estimate.activations
        shape = self._cache_shape(path, decoder, token_bytes, page_size, free)
        scheduler = Scheduler(
            model,
            shape,
            vocab_size=min(decoder.vocab_size, decoder.num_embeddings),
            limits=replace(limits, max_running=shape.num_slots),
            has_states=bool(decoder.states),
            prompt_rule=decoder.prompt_rule,
        )
        runner = ModelRunner(
            decoder,
            decoder.layers,
            shape,
            kernel=kernel,
            capture=self._capture(),
            states=decoder.states,
            coding=coding,
        )
        kv_dtype = coding.name if coding else str(decoder.dtype).removeprefix("torch.")
        sizes: dict[str, object] = {"context": shape.context, "pages": shape.num_pages}
        log.info("model loaded", extra={"model": model, "dtype": str(dtype), "kv_dtype": kv_dtype} | sizes)
        return ResidentModel(
            scheduler,
            runner,
            num_bytes=weights + runner.num_bytes,
            path=path,
            needed_bytes=weights + estimate.cache + estimate.activations + 2 * bytes_per_slot(decoder.states),
            image_processor=decoder.image_processor,
            kv_dtype=kv_dtype,
            stored=stored_format(checkpoint, dtype),
            files=_mapped(checkpoint),
        )

    def _load_options(self, dtype: Any, on_progress: OnProgress) -> LoadOptions:
        return LoadOptions(
            dtype,
            self.device,
            on_progress,
            allow_unexpected=self.settings.allow_unexpected_tensors,
            max_image_pixels=self.settings.max_image_pixels,
        )

    def _estimate(
        self, checkpoint: Checkpoint, dtype: Any, coding: Coding | None, *, step_tokens: int
    ) -> MemoryEstimate:
        rows = self.settings.limits.max_logit_rows
        return estimate_memory(
            checkpoint, dtype, context=_MIN_CONTEXT, step_tokens=step_tokens, rows=rows, coding=coding
        )

    def _load_embedder(
        self, model: str, checkpoint: Checkpoint, dtype: Any, pooling: Pooling, on_progress: OnProgress
    ) -> ResidentModel:
        path = checkpoint.path
        needed = weight_bytes(checkpoint, dtype)
        self._check_room(path, "it takes about", f"{-(-needed // MIB)} MiB", needed, self.free)
        options = self._load_options(dtype, on_progress)
        with _whole_files(checkpoint):
            runner = load_embedder(checkpoint, pooling, options)
        release_unused(self.device)
        scheduler = EmbeddingScheduler(
            model, context=runner.shape.context, vocab_size=runner.vocab_size, limits=self.settings.limits
        )
        return ResidentModel(
            scheduler,
            runner,
            num_bytes=needed,
            path=path,
            needed_bytes=needed,
            stored=stored_format(checkpoint, dtype),
            files=_mapped(checkpoint),
        )

    def _capture(self) -> Capture | None:
        return CudaGraphCapture() if self.device.type == "cuda" else None

    def _cache_shape(
        self, path: Path, decoder: AnyDecoder, token_bytes: int, page_size: int, free: int
    ) -> CacheShape:
        page_bytes = token_bytes * page_size
        state_bytes = bytes_per_slot(decoder.states)
        pages_per_context = -(-decoder.context // page_size)
        # What is added to each count is for the padding slot, see `PageTable.padding_slot`.
        least = (min(pages_per_context, _MIN_CONTEXT // page_size) + 1) * page_bytes + state_bytes
        self._check_room(path, "its cache takes", f"{-(-least // MIB)} MiB", least + state_bytes, free)
        num_slots, num_snapshots = self._state_counts(state_bytes, free - least)
        free -= (num_slots + 1 + num_snapshots) * state_bytes
        num_bytes = self._kv_bytes((pages_per_context + 1) * page_bytes, free)
        num_pages = num_slots * pages_per_context
        if page_bytes:
            num_pages = max(1, min(num_bytes // page_bytes - 1, num_pages))
        context = min(decoder.context, num_pages * page_size)
        return CacheShape(num_pages, page_size, num_slots, context, num_snapshots)

    def _state_counts(self, state_bytes: int, free: int) -> tuple[int, int]:
        """Return how many requests may run at once, fewer than configured if their states take too much, and
        how many snapshots of states are kept: two for each, if there is room."""
        most = self.settings.limits.max_running
        if not state_bytes:
            return most, 0
        count = max(1, int(free * _STATE_SHARE) // state_bytes)
        num_slots = min(most, max(1, count // 3))
        return num_slots, min(2 * num_slots, count - num_slots)

    def _kv_bytes(self, one_context: int, free: int) -> int:
        if self.settings.kv_mb is not None:
            return min(self.settings.kv_mb * MIB, free)
        share = int(free * _KV_SHARE)
        return share if self.device.type == "cuda" else min(share, max(one_context, _CPU_KV_BYTES))

    def _check_room(self, path: Path, takes: str, size: str, needed: int, free: int) -> None:
        if needed > free:
            left = f"{max(0, free) // MIB} MiB are free of the {self.budget // MIB} MiB there are"
            raise ModelLoadError("insufficient_memory", f"{path}: {takes} {size}, but {left}")


def _check_coding(path: Path, layers: Mapping[int, KVShape], coding: Coding | None) -> None:
    """Raises `ModelLoadError` for a model whose cache cannot be codes."""
    reasons = [shape.needs_exactness for shape in layers.values() if shape.needs_exactness]
    if coding and reasons:
        cause = f"kv_dtype {coding.name!r} is not for this model, since {reasons[0]}: load it with 'auto'"
        raise ModelLoadError("model_unsupported", f"{path}: {cause}")


def _mapped(checkpoint: Checkpoint) -> list[MappedFile]:
    """Return the checkpoint's files that tensors view. Raises ModelLoadError for one that has changed."""
    files = still_mapped({entry.file for entry in checkpoint.tensors.values()})
    for file in files:
        if found := file.damage():
            raise model_broken(file.path, f"{found} while it was loaded")
    return files


@contextmanager
def _whole_files(checkpoint: Checkpoint) -> Iterator[None]:
    """Give a load that fails since its files changed meanwhile this reason."""
    try:
        yield
    except Exception:
        _mapped(checkpoint)
        raise
