"""What a loaded part does otherwise than a model: it adds up with others, and has a piece of the head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from neuron.device.collective import gather_ranks, mean_of_ranks, sum_ranks, sums_are_recorded
from neuron.device.kv_cache import KVShape
from neuron.device.model import DecoderModel, HeadedModel, ImageEmbeddings, RecordableModel, hidden_states
from neuron.device.state_pool import StateName, StateShape
from neuron.models.adapters.bank import AdapterBank
from neuron.models.fused.multi_token_head import MultiTokenHead
from neuron.models.fused.norm import OF_ALL_RANKS
from neuron.models.tensor_parallel.checkpoint import RankPart
from neuron.models.tensor_parallel.sizes import Rank
from neuron.step import PromptRule


def take_head(model: Any, rank: Rank) -> slice:
    """Leave of a model's head the outputs that are this rank's part of the vocabulary; return which."""
    head = model.get_output_embeddings()
    rows = slice(*rank.bounds(head.weight.shape[0]))
    head.weight = nn.Parameter(_rows(head.weight, rows), requires_grad=False)
    if getattr(head, "bias", None) is not None:
        head.bias = nn.Parameter(head.bias[rows].clone(), requires_grad=False)
    return rows


def _rows(weight: Tensor, rows: slice) -> Tensor:
    """Return rows of a weight: a view on a CPU, where the whole is a mapped file; a copy on other devices."""
    with torch.inference_mode(mode=False):
        part = weight.detach()[rows]
        return part if weight.device.type == "cpu" else part.clone()


def add_up(modules: Iterable[nn.Module]) -> None:
    """Let transformers' modules return the sum of what all ranks make."""
    for module in modules:
        module.register_forward_hook(lambda _module, _inputs, out: sum_ranks(out))


def join_norms(modules: Iterable[nn.Module]) -> None:
    """Let transformers' gated norms be over what all ranks have, as much on each."""
    for module in modules:
        setattr(module, OF_ALL_RANKS, True)
        module.forward = MethodType(_norm_together, module)


def _norm_together(module: Any, x: Tensor, gate: Tensor | None = None) -> Tensor:
    values = x.float() if gate is None else x.float() * silu(gate.float())
    mean = mean_of_ranks(values.square().mean(-1, keepdim=True))
    weight: Tensor = module.weight
    return weight * (values * torch.rsqrt(mean + module.variance_epsilon)).to(x.dtype)


def _head_of(decoder: Any, first_token: int) -> MultiTokenHead | None:
    """Return a rank's part of a head, whose logits begin with those of `first_token`."""
    head = decoder.head if isinstance(decoder, HeadedModel) else None
    if not isinstance(head, MultiTokenHead):
        return None
    head.first_token = first_token
    return head


class RankDecoder:
    """A `neuron.device.model.DecoderModel` of all ranks together, on one of them.

    Its logits are gathered on rank 0; on others they have no columns.
    """

    is_capturable = False  # sums of NCCL are not recorded in graphs
    vision_encoder = None
    image_processor = None

    def __init__(self, decoder: Any, part: RankPart, vocab_size: int) -> None:
        self._part: DecoderModel = decoder
        self._rank = part.rank
        self.part = part
        self.vocab_size = vocab_size
        self.num_embeddings: int = decoder.num_embeddings
        self.context: int = decoder.context
        self.prompt_rule: PromptRule | None = decoder.prompt_rule
        self.runs_rows_alone = decoder.runs_rows_alone
        self.whole_images = False  # it reads and writes text alone
        self.layers: Mapping[int, KVShape] = decoder.layers
        self.states: Mapping[StateName, StateShape] = decoder.states
        self.dtype = decoder.dtype
        self.device = decoder.device
        self.adapters: AdapterBank | None = decoder.adapters  # each rank has its part of them
        self.head = _head_of(decoder, part.rank.bounds(vocab_size)[0])
        self.num_candidates = 0  # of each row that the next step's sampler may draw from; 0: all

    def __call__(
        self,
        tokens: Tensor,
        positions: Tensor,
        logits_indices: Tensor,
        image_embeddings: ImageEmbeddings = (),
    ) -> Tensor:
        return self.finish(self._part(tokens, positions, logits_indices, image_embeddings))

    @property
    def hidden(self) -> Tensor | None:
        """The states of the rows that ran last, the same on each rank; None without a head."""
        return hidden_states(self._part)

    @property
    def is_recordable(self) -> bool:
        is_recordable = isinstance(self._part, RecordableModel) and self._part.is_recordable
        return is_recordable and sums_are_recorded()

    @property
    def embeds(self) -> bool:
        return isinstance(self._part, RecordableModel) and self._part.embeds

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the embeddings of tokens."""
        return self._recordable.embed(tokens)

    def reaches(self, last: int) -> bool:
        """Return whether `compute` can go up to a position."""
        return self._recordable.reaches(last)

    def compute(self, tokens: Tensor, positions: Tensor, embedded: Tensor | None) -> Tensor:
        """Return the logits of this rank's part of the vocabulary."""
        return self._recordable.compute(tokens, positions, embedded)

    @property
    def _recordable(self) -> RecordableModel:
        assert isinstance(self._part, RecordableModel)
        return self._part

    def finish(self, logits: Tensor) -> Tensor:
        """Return the logits of all ranks, given those of this one's part of the vocabulary."""
        if not len(logits):
            return logits.new_empty(0, self.vocab_size)
        wanted = min(self.num_candidates, self.vocab_size // self._rank.size)
        whole = self._best(logits, wanted) if wanted else self._all(logits)
        return logits.new_empty(len(logits), 0) if whole is None else whole

    def _best(self, logits: Tensor, count: int) -> Tensor | None:
        """Return the largest logits of each rank in their places, and elsewhere what is never drawn."""
        values, ids = logits.topk(count) if count > 1 else logits.max(1, keepdim=True)
        ids += self._rank.bounds(self.vocab_size)[0]
        gathered = gather_ranks(torch.cat([values, ids.to(values.dtype)], 1))  # which holds every id
        if gathered is None:
            return None
        whole = logits.new_full((len(logits), self.vocab_size), float("-inf"))
        for part in gathered:
            whole.scatter_(1, part[:, count:].long(), part[:, :count])
        return whole

    def _all(self, logits: Tensor) -> Tensor | None:
        sizes = [stop - start for start, stop in self._all_bounds]
        padded = torch.nn.functional.pad(logits, (0, max(sizes) - logits.shape[1]))
        gathered = gather_ranks(padded)
        if gathered is None:
            return None
        return torch.cat([part[:, :size] for part, size in zip(gathered, sizes, strict=True)], 1)

    @property
    def _all_bounds(self) -> list[tuple[int, int]]:
        size = self._rank.size
        return [Rank(index, size).bounds(self.vocab_size) for index in range(size)]
