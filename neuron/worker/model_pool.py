"""The models on one device, and the memory they share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from neuron.device.cuda_graphs import Capture, CudaGraphCapture
from neuron.device.draft_model import DraftedRunner
from neuron.device.embedding_runner import EmbeddingRunner
from neuron.device.kv_cache import bytes_per_token
from neuron.device.memory import (
    MIB,
    OutOfMemoryError,
    bytes_fragmented,
    bytes_in_use,
    default_budget,
    default_host_budget,
    release_unused,
)
from neuron.device.model_runner import ModelRunner
from neuron.device.page_pool import CODINGS, Coding
from neuron.device.startup import AcceleratorError, Device
from neuron.device.state_pool import bytes_per_slot
from neuron.device.varlen import find_coded_kernel, find_varlen_kernel, select_kernel
from neuron.engine.drafter import MOST_DRAFT_TOKENS, DraftSource, draft_source
from neuron.engine.embedding_scheduler import EmbeddingScheduler
from neuron.engine.request import LoadedAdapter
from neuron.engine.scheduler import Scheduler
from neuron.engine.scheduler_limits import SchedulerLimits
from neuron.models.architecture import decoder_class
from neuron.models.checkpoint import Checkpoint, ModelLoadError
from neuron.models.decoder import AnyDecoder, load_decoder, model_dtype
from neuron.models.embedder import Embedder
from neuron.models.in_situ.checkpoint import in_situ
from neuron.models.memory_estimate import (
    MemoryEstimate,
    estimate_memory,
    head_bytes,
    stored_format,
    weight_bytes,
)
from neuron.models.multi_token import choose_head
from neuron.models.packed.checkpoint import packed
from neuron.models.packed.folder import PackedFolder
from neuron.models.reading import read_checkpoint
from neuron.models.sentence_loading import class_finder, load_sentence_model
from neuron.models.sentence_modules import read_sentence_modules
from neuron.models.tensor_parallel.checkpoint import split_checkpoint
from neuron.models.tensor_parallel.rank import RankDecoder
from neuron.models.weights import MAX_IMAGE_PIXELS, LoadOptions, OnProgress
from neuron.pipe import GroupRank
from neuron.step import CacheShape, PoisonedError, PromptRule
from neuron.worker.cache_counts import check_coding, count_host, count_states, kv_bytes
from neuron.worker.draft_pair import check_vocabulary, draft_needs, guessing_runner, head_wish, pair
from neuron.worker.host_cache import HostCache
from neuron.worker.loaded_model import LoadedModel, ModelOrigin
from neuron.worker.rank_link import RankLink, joining
from neuron.worker.resident_adapters import ResidentAdapter, ResidentAdapters
from neuron.worker.resident_model import ResidentModel
from neuron.worker.whole_files import mapped_files, whole_files

log = logging.getLogger("neuron.worker")

_MIN_CONTEXT = 256  # tokens; a model whose cache holds less is useless


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What a worker is told about all its models. None: it finds out itself."""

    cpu_devices: int = 1  # workers that share a CPU
    memory_mb: int | None = None  # for everything: torch itself, weights and caches
    kv_mb: int | None = None  # for the cache of each model
    host_cache_mb: int | None = None  # for models that are asleep
    kv_host_mb: int = 0  # for pages of each model that left its cache
    dtype: str | None = None
    packed: PackedFolder | None = None  # for weights that loads compute
    kv_dtype: str = "auto"  # of `page_pool.KV_DTYPES`, for models that are loaded without one
    speculation: str = "auto"  # what drafts the answers of models that are loaded without one
    draft_tokens: int = MOST_DRAFT_TOKENS  # of one answer in a step
    allow_unexpected_tensors: bool = False  # that a model's configuration has no place for
    max_image_pixels: int = MAX_IMAGE_PIXELS
    limits: SchedulerLimits = field(default_factory=SchedulerLimits)


class ModelPool:
    """Loads and drops the models of one device. A failed load leaves it as it was."""

    def __init__(self, device: Device, settings: WorkerSettings) -> None:
        self.device = device
        self.settings = settings
        self.models: dict[str, ResidentModel] = {}
        self.adapters = ResidentAdapters()
        self.followed: dict[str, ResidentModel] = {}  # parts of models whose requests are on another rank
        self._kernel = find_varlen_kernel() if device.type == "cuda" else None
        self._coded_kernel = find_coded_kernel() if device.type == "cuda" else None
        self._own_bytes = bytes_in_use(device)  # torch, transformers, the device's context
        self.budget = default_budget(device) if settings.memory_mb is None else settings.memory_mb * MIB
        if device.type == "cpu" and settings.memory_mb is None:
            self.budget //= settings.cpu_devices
        self.asleep = HostCache(self._host_budget(), device.type)

    def _host_budget(self) -> int:
        if self.settings.host_cache_mb is not None:
            return self.settings.host_cache_mb * MIB
        return default_host_budget() if self.device.type == "cuda" else self.budget

    @property
    def fragmented(self) -> int:
        """Free bytes that no large tensor gets; see `bytes_fragmented`."""
        return bytes_fragmented(self.device)

    @property
    def used(self) -> int:
        """Bytes that are taken or reserved, whether written already or not.

        Models that are asleep count as free: they go when their room is needed.
        """
        residents = *self.models.values(), *self.followed.values()
        return self._own_bytes + sum(resident.num_bytes + resident.adapter_bytes for resident in residents)

    @property
    def free(self) -> int:
        return max(0, self.budget - self.used)

    def load(  # noqa: PLR0913
        self,
        model: str,
        path: Path,
        on_progress: OnProgress,
        *,
        quant: str | None = None,
        kv_dtype: str | None = None,
        place: GroupRank | None = None,
        speculation: str | None = None,
        draft: Path | None = None,
    ) -> ResidentModel:
        """Return the model, loaded from `path` and quantized by `quant` unless it is here already.

        The model in `draft` drafts its answers, if one is named, otherwise what `speculation` says.
        One that is asleep is woken, unless it was loaded from elsewhere, otherwise, or from files that have
        changed. With a `place` in a group it is one rank's part, and loaded when all ranks have theirs.
        Raises ModelLoadError, and PoisonedError when the device is unusable from now on.
        """
        if model in self.models:
            return self.models[model]
        try:
            speculation = speculation or self.settings.speculation
            with joining(place) as link:
                coding = CODINGS.get(kv_dtype or self.settings.kv_dtype)
                resident = self._load_or_wake(
                    model, path, quant, coding, speculation, draft, on_progress, link
                )
            (self.followed if link and not link.is_first else self.models)[model] = resident
            self._make_room(0)
        except (OutOfMemoryError, MemoryError) as error:
            raise ModelLoadError("insufficient_memory", f"{path}: {error or 'out of memory'}") from error
        except AcceleratorError as error:
            raise PoisonedError(f"the device failed: {error}") from error
        return resident

    def load_adapter(self, name: str, base: str, path: Path, number: int = 0) -> ResidentAdapter:
        """Return an adapter over the model `base`; see `ResidentAdapters.load`."""
        resident = self.models.get(base) or self.followed.get(base)
        return self.adapters.load(name, resident, path, self.free, number)

    def find(self, name: str) -> tuple[ResidentModel, LoadedAdapter | None] | None:
        """Return the model that answers to a name, and the adapter if that is one; None if there is none."""
        if found := self.adapters.get(name):
            return found.base, found.adapter
        resident = self.models.get(name)
        return None if resident is None else (resident, None)

    def unload(self, model: str) -> ResidentModel | None:
        """Take the model out with its adapters and return it; None if it is not here, or was asleep.

        Its memory is free once the caller has dropped it and called `release_unused`.
        """
        self.asleep.drop(model)
        resident = self.models.pop(model, None) or self.followed.pop(model, None)
        self.adapters.unload_over(resident)
        return resident

    def release_unused(self, *, collects: bool = True) -> None:
        """Return freed memory to the system; see `memory.release_unused`."""
        release_unused(self.device, collects=collects)

    def _make_room(self, num_bytes: int) -> None:
        """Drop models that are asleep where they take memory of the device, until so much is free."""
        if self.device.type == "cpu":
            self.asleep.shrink(max(0, self.free - num_bytes))

    def _load_or_wake(  # noqa: PLR0913
        self,
        model: str,
        path: Path,
        quant: str | None,
        coding: Coding | None,
        speculation: str,
        draft: Path | None,
        on_progress: OnProgress,
        link: RankLink | None,
    ) -> ResidentModel:
        if draft:
            check_vocabulary(path, draft)
        if link:
            on_progress = link.checking(on_progress)
        rank = link.rank if link else None
        wish = head_wish(speculation, draft)
        origin = ModelOrigin(path, quant, coding, rank, draft, wish)
        loaded = self._wake(model, origin)
        if loaded is None:
            release_unused(self.device)
            loaded = self._load(origin, on_progress)
            if draft:
                loaded = pair(loaded, self._load(ModelOrigin(draft), on_progress, loaded.num_bytes))
            release_unused(self.device)
        drafts = draft_source(
            speculation, self.settings.draft_tokens, on_device=bool(loaded.draft or loaded.head)
        )
        return self._resident(model, loaded, drafts, link, lambda: on_progress(1.0))

    def _wake(self, model: str, origin: ModelOrigin) -> LoadedModel | None:
        loaded = self.asleep.peek(model)
        if loaded is None:
            return None
        if loaded.origin != origin or loaded.damage:
            self.asleep.drop(model)
            return None
        self._check_room(loaded.path, "it takes", f"{loaded.memory_mb} MiB", loaded.num_bytes, self.free)
        return self.asleep.take(model)

    def _load(self, origin: ModelOrigin, on_progress: OnProgress, taken: int = 0) -> LoadedModel:
        """Return a model, loaded into what is free but for the bytes `taken`."""
        path, quant, coding, rank, _, wish = origin
        free = self.free - taken
        checkpoint = choose_head(read_checkpoint(path), wish)
        dtype = model_dtype(checkpoint, self.settings.dtype)
        modules = read_sentence_modules(checkpoint)
        part = None
        if rank:
            checkpoint, part = split_checkpoint(checkpoint, rank, quant, makes_embeddings=modules is not None)
        if quant:
            checkpoint = in_situ(checkpoint, quant, class_finder(modules) if modules else decoder_class)
        options = replace(self._load_options(dtype, on_progress), part=part)
        if modules:
            needed = weight_bytes(checkpoint, dtype)
            self._check_room(path, "it takes about", f"{-(-needed // MIB)} MiB", needed, free)
            self._make_room(needed)
            with whole_files(checkpoint):
                checkpoint = packed(checkpoint, self.settings.packed, quant, rank, on_progress)
                embedder = load_sentence_model(checkpoint, modules, options)
            stored, files = stored_format(checkpoint, dtype), mapped_files(checkpoint)
            return LoadedModel(path, quant, embedder, needed, stored, files)
        step_tokens = self.settings.limits.max_step_tokens
        estimate = self._estimate(checkpoint, dtype, coding, step_tokens=step_tokens)
        self._check_room(path, "it takes about", str(estimate), estimate.total, free)
        self._make_room(taken + estimate.total)
        before = bytes_in_use(self.device)
        with whole_files(checkpoint):
            checkpoint = packed(checkpoint, self.settings.packed, quant, rank, on_progress)
            decoder = load_decoder(checkpoint, options)
        options.on_progress(1.0)
        release_unused(self.device)
        check_coding(path, decoder.layers, coding)
        if decoder.prompt_rule is PromptRule.WHOLE:
            whole = max(step_tokens, decoder.context)
            estimate = self._estimate(checkpoint, dtype, coding, step_tokens=whole)
        # Less than the estimate is measured where the process could reuse freed memory.
        weights = max(bytes_in_use(self.device) - before, estimate.weights)
        stored, files = stored_format(checkpoint, dtype), mapped_files(checkpoint)
        found = LoadedModel(path, quant, decoder, weights, stored, files, estimate, coding, rank, wish=wish)
        return replace(found, head_bytes=head_bytes(checkpoint, dtype))

    def _resident(
        self,
        model: str,
        loaded: LoadedModel,
        drafts: DraftSource | None,
        link: RankLink | None,
        pause: Callable[[], None],
    ) -> ResidentModel:
        """Return the model with pages and a scheduler of its own, all of them empty."""
        decoder, estimate, coding = loaded.module, loaded.estimate, loaded.coding
        limits = self.settings.limits
        if isinstance(decoder, Embedder) or estimate is None:
            embedder: Any = decoder
            context, vocab_size = embedder.shape.context, embedder.vocab_size
            embeddings = EmbeddingScheduler(
                model, context=context, vocab_size=vocab_size, limits=limits, pads=embedder.pads
            )
            size = loaded.num_bytes
            return ResidentModel(loaded, embeddings, EmbeddingRunner(embedder), size, size)
        kernel, page_size = select_kernel(
            self._coded_kernel if coding else self._kernel, decoder.layers, decoder.dtype, self.device, coding
        )
        needs = draft_needs(loaded.draft)
        token_bytes = bytes_per_token(decoder.layers, decoder.dtype, coding) + needs.token_bytes
        free = self.free - loaded.num_bytes - estimate.activations - needs.activations
        has_drafts = drafts is not None
        shape = self._cache_shape(loaded.path, decoder, token_bytes, page_size, free, drafts=has_drafts)
        if link:
            shape = link.agree(shape, pause)
            link.connect(self.device)
        scheduler = Scheduler(
            model,
            shape,
            vocab_size=min(decoder.vocab_size, decoder.num_embeddings),
            limits=replace(limits, max_running=shape.num_slots),
            has_states=bool(decoder.states),
            prompt_rule=decoder.prompt_rule,
            whole_images=decoder.whole_images,
            drafts=drafts,
        )
        runner = ModelRunner(
            decoder,
            decoder.layers,
            shape,
            kernel=kernel,
            capture=None if link else self._capture(),
            states=decoder.states,
            coding=coding,
            drafts=has_drafts,
        )
        kv_dtype = coding.name if coding else str(decoder.dtype).removeprefix("torch.")
        told = {"kv_dtype": kv_dtype, "context": shape.context, "pages": shape.num_pages}
        log.info("model loaded", extra={"model": model} | told)
        least = estimate.cache + estimate.activations + (3 if drafts else 2) * bytes_per_slot(decoder.states)
        steps = guessing_runner(runner, loaded, self._kernel, self._capture())
        draft_bytes = steps.draft_bytes if isinstance(steps, DraftedRunner) else 0
        return ResidentModel(
            loaded,
            scheduler,
            link.runner(steps, decoder) if link and isinstance(decoder, RankDecoder) else steps,
            num_bytes=loaded.num_bytes + runner.num_bytes + draft_bytes,
            needed_bytes=loaded.num_bytes + least + needs.least,
            kv_dtype=kv_dtype,
            state_bytes=runner.state_bytes,
            link=link,
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

    def _capture(self) -> Capture | None:
        return CudaGraphCapture() if self.device.type == "cuda" else None

    def _cache_shape(
        self, path: Path, decoder: AnyDecoder, token_bytes: int, page_size: int, free: int, *, drafts: bool
    ) -> CacheShape:
        page_bytes = token_bytes * page_size
        state_bytes = bytes_per_slot(decoder.states)
        pages_per_context = -(-decoder.context // page_size)
        # What is added to each count is for the padding slot, see `PageTable.padding_slot`.
        least = (min(pages_per_context, _MIN_CONTEXT // page_size) + 1) * page_bytes + state_bytes
        per_slot = 2 if drafts else 1  # states: with drafts, also those before them
        needed = least + per_slot * state_bytes
        self._check_room(path, "its cache takes", f"{-(-least // MIB)} MiB", needed, free)
        most = self.settings.limits.max_running
        num_slots, num_snapshots = count_states(state_bytes, free - least, per_slot, most)
        free -= (per_slot * num_slots + 1 + num_snapshots) * state_bytes
        host_mb, is_host = self.settings.kv_host_mb, self.device.type == "cpu"
        host_counts = count_host(page_bytes, state_bytes, free - least, host_mb, on_device=is_host)
        if is_host:
            free -= host_counts[0] * page_bytes + host_counts[1] * state_bytes
        num_bytes = kv_bytes((pages_per_context + 1) * page_bytes, free, self.settings.kv_mb, on_cpu=is_host)
        num_pages = num_slots * pages_per_context
        if page_bytes:
            num_pages = max(1, min(num_bytes // page_bytes - 1, num_pages))
        context = min(decoder.context, num_pages * page_size)
        return CacheShape(num_pages, page_size, num_slots, context, num_snapshots, *host_counts)

    def _check_room(self, path: Path, takes: str, size: str, needed: int, free: int) -> None:
        if needed > free:
            left = f"{max(0, free) // MIB} MiB are free of the {self.budget // MIB} MiB there are"
            raise ModelLoadError("insufficient_memory", f"{path}: {takes} {size}, but {left}")
