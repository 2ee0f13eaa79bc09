"""A step's chunks laid out for the device: one flat batch of tokens, cut into groups that attend together.

Chunks of the same number of tokens and about the same length in the cache form an `AttentionGroup`: its
queries are a (rows, width) rectangle of the flat batch, its keys a rectangle of pages padded to the longest.
Decoding requests of similar length form one group; a prompt's chunk is usually alone in its group. Chunks
that continue another of the step come last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor

from neuron.device.kv_cache import PageTable
from neuron.device.page_pool import Pages
from neuron.step import CacheShape, Chunk, PromptRule, StepPlan

# Window, chunk, what prompts do, and whether the tokens of an image see each other.
_Rule = tuple[int | None, int | None, PromptRule | None, bool]

_MIN_BUCKET_PAGES = 8  # below this, padding is cheaper than another group


class AttentionGroup:
    """Rows `start:end` of the flat batch: `rows` chunks of `width` tokens each."""

    def __init__(self, chunks: Sequence[Chunk], start: int, table: PageTable, page_size: int) -> None:
        device = table.pages.device
        self.rows = len(chunks)
        self.width = len(chunks[0].tokens)
        self.start = start
        self.end = start + self.rows * self.width
        self.lengths = [chunk.end for chunk in chunks]  # of the sequences, in tokens
        self._page_size = page_size
        slots = torch.tensor([chunk.slot for chunk in chunks], device=device)
        self._table = table.pages.index_select(0, slots)  # indexing wakes all of torch's threads
        self._starts = [chunk.start for chunk in chunks]
        self._prompts = [table.prompts[chunk.slot] for chunk in chunks]
        self._images = [chunk.images for chunk in chunks]
        self._known: dict[tuple[_Rule, torch.dtype], tuple[Pages, Tensor]] = {}

    @cached_property
    def pages(self) -> Tensor:
        """The pages of each chunk's slot, (rows, pages_per_slot)."""
        return self._table.contiguous()

    @cached_property
    def ends(self) -> Tensor:
        """`lengths` on the device."""
        return torch.tensor(self.lengths, device=self._table.device)

    def chunks(self) -> Iterator[tuple[slice, int, Tensor]]:
        """Yield each chunk's rows of the flat batch, the tokens cached before it, and its slot's pages."""
        for row, start in enumerate(self._starts):
            first = self.start + row * self.width
            yield slice(first, first + self.width), start, self._table[row]

    def pages_and_mask(
        self,
        window: int | None,
        chunk: int | None,
        dtype: torch.dtype,
        prompt: PromptRule | None = None,
        images: bool = False,
    ) -> tuple[Pages, Tensor]:
        """Return the pages to gather, (rows * pages,), and a mask for the scores, (rows, 1, width, tokens).

        The mask is added. Queries see the last `window` positions, or all of them; with `chunk` those of
        their own chunk of positions, and whatever `prompt` adds, and `images`: the image that they are of.
        The result is made once a step and shared by the layers that see alike.
        """
        key = (window, chunk, prompt, images and self.shows_images), dtype
        if key not in self._known:
            self._known[key] = self._pages_and_mask(*key)
        return self._known[key]

    @property
    def shows_images(self) -> bool:
        return any(self._images)

    def _pages_and_mask(self, rule: _Rule, dtype: torch.dtype) -> tuple[Pages, Tensor]:
        window, chunk, prompt, images = rule
        size, device = self._page_size, self._table.device
        first_pages = [_first_seen(start, rule) // size for start in self._starts]
        spans = zip(self._starts, first_pages, strict=True)
        count = max(-(-(start + self.width) // size) - first for start, first in spans)
        columns = torch.tensor(first_pages, device=device)[:, None] + torch.arange(count, device=device)
        pages = self._table.gather(1, columns.clamp(max=self._table.shape[1] - 1))

        key = (columns[:, :, None] * size + torch.arange(size, device=device)).view(
            self.rows, 1, 1, count * size
        )
        starts = torch.tensor(self._starts, device=device)[:, None] + torch.arange(self.width, device=device)
        query = starts[:, None, :, None]
        later = key > query
        if images:
            later = later & ~self._in_one_image(query, key)
        hidden = later
        if window:
            hidden = hidden | (key <= query - window)
        if chunk:
            hidden = hidden | (key < query // chunk * chunk)
        if prompt:
            ends = torch.tensor(self._prompts, device=device)[:, None, None, None]
            hidden = hidden & ~((key < ends) & (query < ends if prompt is PromptRule.WHOLE else ~later))
        mask = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))
        return _as_slice(pages) or pages.flatten(), mask

    def _in_one_image(self, query: Tensor, key: Tensor) -> Tensor:
        """Return whether the tokens at two positions of each row belong to one image, as a mask is shaped."""
        rows = []
        for row, images in enumerate(self._images):
            q, k = query[row], key[row]
            together = torch.zeros(1, q.shape[1], k.shape[2], dtype=torch.bool, device=key.device)
            for start, end in (block for image in images for block in image.blocks):
                together |= (q >= start) & (q < end) & (k >= start) & (k < end)
            rows.append(together)
        return torch.stack(rows)

    def locate(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return where in the cache some positions of each row are, (rows, heads, k) as they are themselves.

        Then a mask for the scores that the row's one query has with them, (rows, heads, 1, k).
        """
        size, known = self._page_size, positions.clamp(min=0)
        pages = self._table.gather(1, known.flatten(1) // size).view_as(known)
        query = torch.tensor(self._starts, device=known.device)[:, None, None]
        hidden = ((positions < 0) | (positions > query)).unsqueeze(2)
        mask = torch.zeros(hidden.shape, dtype=dtype, device=known.device)
        return pages * size + known % size, mask.masked_fill_(hidden, float("-inf"))


def _first_seen(position: int, rule: _Rule) -> int:
    """Return the first position that a query sees."""
    window, chunk, prompt, _ = rule
    if prompt:
        return 0
    first = max(0, position - window + 1) if window else 0
    return max(first, position // chunk * chunk) if chunk else first


def _as_slice(pages: Tensor) -> slice | None:
    """Return the pages of a single row as a slice if they are consecutive, on a CPU, where asking is free."""
    if len(pages) != 1 or pages.device.type != "cpu":
        return None
    numbers = pages[0].tolist()
    first, end = numbers[0], numbers[0] + len(numbers)
    return slice(first, end) if numbers == list(range(first, end)) else None


class Batch:
    """The flat batch of a step: its chunks in `order`, each chunk's tokens next to each other.

    Unless they run `in_turn`, chunks that continue others are in one group with these.
    """

    def __init__(self, plan: StepPlan, table: PageTable, shape: CacheShape, *, in_turn: bool = True) -> None:
        device, size = table.pages.device, shape.page_size
        keys = [
            (continues and in_turn, len(chunk.tokens), _length_bucket(chunk.end, size))
            for continues, chunk in zip(plan.continuations(), plan.chunks, strict=True)
        ]
        self.order = sorted(range(len(keys)), key=keys.__getitem__)  # indices of `plan.chunks`
        self.groups: list[AttentionGroup] = []
        self.ends: list[int] = []  # one past the last row of each chunk, in `order`
        slots: list[int] = []
        tokens: list[int] = []
        positions: list[int] = []
        for _, members in groupby(self.order, key=keys.__getitem__):
            chunks = [plan.chunks[index] for index in members]
            self.groups.append(AttentionGroup(chunks, len(tokens), table, size))
            for chunk in chunks:
                tokens += chunk.tokens
                positions += range(chunk.start, chunk.end)
                slots += [chunk.slot] * len(chunk.tokens)
                self.ends.append(len(tokens))
        self.tokens = torch.tensor(tokens, device=device)
        self.positions = torch.tensor(positions, device=device)
        pages = table.pages[torch.tensor(slots, device=device), self.positions // size]
        self.locations = pages * size + self.positions % size  # in the cache, see `KVCache.write`


def _length_bucket(num_tokens: int, page_size: int) -> int:
    """Return the bucket of a length. Lengths within a factor of two share one, so at most half is padding."""
    return max(_MIN_BUCKET_PAGES, -(-num_tokens // page_size) - 1).bit_length()
