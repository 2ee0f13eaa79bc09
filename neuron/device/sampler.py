"""From logits to tokens, each request by its own parameters.

Greedy rows take the largest logit. The others invert the cumulative distribution at the random number that
the plan brings, so a row's token depends on its own logits and number and on no other row.

Order: banned and allowed ids, bias, penalties, temperature, top_k, top_p, min_p. The repetition penalty
(Keskar et al. 2019) counts prompt and answer; presence and frequency penalties (OpenAI) count the answer
only. Logprobs are the model's own, of its logits before all of these, so they do not depend on how a token
was chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from neuron.device.acceptance import kept_rows
from neuron.device.row_steps import largest
from neuron.pipe import Logprob, Sampling
from neuron.step import Draw, Joined

_CANDIDATES = 256  # tried before a whole row is sorted: enough for nearly every top_k, top_p and min_p


class _SlotState:
    """What the sampler keeps of the request in a slot."""

    def __init__(self, joined: Joined, vocab_size: int, device: torch.device) -> None:
        self.sampling = joined.sampling
        self.logit_bias: tuple[Tensor, Tensor] | None = None
        if joined.sampling.logit_bias:
            ids, biases = zip(*joined.sampling.logit_bias, strict=True)
            self.logit_bias = torch.tensor(ids, device=device), torch.tensor(biases, device=device)
        self.counts: Tensor | None = None  # of each id in the answer; set together with `prompt`
        if _has_penalty(joined.sampling):
            self.prompt = torch.zeros(vocab_size, dtype=torch.bool, device=device)
            self.prompt[torch.tensor(joined.prompt, dtype=torch.int64, device=device)] = True
            output = torch.tensor(joined.output, dtype=torch.int64, device=device)
            self.counts = torch.bincount(output, minlength=vocab_size)

    @property
    def changes_logits(self) -> bool:
        return self.logit_bias is not None or self.counts is not None

    def apply_bias_and_penalties(self, logits: Tensor) -> None:
        """Change one row of logits in place."""
        if self.logit_bias is not None:
            logits.index_add_(0, *self.logit_bias)
        if self.counts is None:
            return
        penalty = self.sampling.repetition_penalty
        if penalty != 1.0:
            penalized = torch.where(logits > 0, logits / penalty, logits * penalty)
            logits.copy_(torch.where(self.prompt | (self.counts > 0), penalized, logits))
        sampling = self.sampling
        logits -= sampling.frequency_penalty * self.counts + sampling.presence_penalty * (self.counts > 0)

    def count(self, token: int, times: int = 1) -> None:
        if self.counts is not None:
            self.counts[token] += times


class Sampler:
    """Samples the tokens of a step and keeps, by slot, what the penalties need."""

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self._slots: list[_SlotState | None] = [None] * num_slots

    def join(self, joined: Joined) -> None:
        """Start over in a slot."""
        self._slots[joined.slot] = _SlotState(joined, self._vocab_size, self._device)

    def sample(
        self,
        logits: Tensor,
        slots: Sequence[int],
        draws: Sequence[Draw],
        drafts: Sequence[int | None] | None = None,
        places: Sequence[int] | None = None,
    ) -> tuple[list[int], dict[int, Logprob]]:
        """Return one token per row, and by row the logprobs of requests that want them.

        `logits` is (rows, vocab) in float32 and is overwritten; `places` has where each row is largest, where
        that is known. A row of which `drafts` has a token is followed by another of its slot, sampled as if
        that token had been. What counts is the caller's to find, by `kept_rows`.
        """
        if drafts is None:
            drafts = [None] * len(slots)
        states = [self._state(slot) for slot in slots]
        reported = [row for row, state in enumerate(states) if state.sampling.top_logprobs is not None]
        model_logprobs = logits[reported].log_softmax(dim=-1) if reported else logits
        is_changed = _apply_bitmasks(logits, draws)
        for row, (state, draw, draft) in enumerate(zip(states, draws, drafts, strict=True)):
            is_changed = is_changed or bool(draw.banned) or state.changes_logits
            if draw.banned:
                logits[row, torch.tensor(draw.banned, device=self._device)] = float("-inf")
            if state.changes_logits:
                state.apply_bias_and_penalties(logits[row])
            if draft is not None:
                state.count(draft)
        tokens = largest(logits) if is_changed or places is None else [*places]
        random = [row for row, state in enumerate(states) if state.sampling.temperature > 0]
        if random:
            is_whole = len(random) == len(states)
            rows = logits if is_whole else logits[torch.tensor(random, device=self._device)]
            samplings = [states[row].sampling for row in random]
            drawn = _draw(rows, samplings, [draws[row].uniform for row in random])
            for row, token in zip(random, drawn, strict=True):
                tokens[row] = token
        for state, token, draft, is_kept in zip(
            states, tokens, drafts, kept_rows(tokens, drafts), strict=True
        ):
            if draft is not None:
                state.count(draft, -1)
            if is_kept:
                state.count(token)
        if not reported:
            return tokens, {}
        counts = [states[row].sampling.top_logprobs or 0 for row in reported]
        logprobs = _logprobs(model_logprobs, [tokens[row] for row in reported], counts)
        return tokens, dict(zip(reported, logprobs, strict=True))

    def score(self, logits: Tensor, slots: Sequence[int], tokens: Sequence[int]) -> list[Logprob]:
        """Return the logprob of a token per row of `logits`, (rows, vocab), with the alternatives that the
        slot's request asked for."""
        counts = [self._state(slot).sampling.top_logprobs or 0 for slot in slots]
        return _logprobs(logits.log_softmax(dim=-1), tokens, counts)

    def _state(self, slot: int) -> _SlotState:
        state = self._slots[slot]
        assert state is not None
        return state


def _apply_bitmasks(logits: Tensor, draws: Sequence[Draw]) -> bool:
    """Leave of each guided row the ids that its bitmask allows; return whether there is such a row."""
    guided = [row for row, draw in enumerate(draws) if draw.allowed is not None]
    if not guided:
        return False
    width = -(-logits.shape[1] // 8)
    packed = b"".join(
        (draw.allowed or b"")[:width].ljust(width, b"\0") for draw in draws if draw.allowed is not None
    )
    rows = torch.frombuffer(bytearray(packed), dtype=torch.uint8).view(len(guided), width).to(logits.device)
    bits = (rows[:, :, None] >> torch.arange(8, dtype=torch.uint8, device=logits.device)) & 1
    hidden = bits.flatten(1)[:, : logits.shape[1]] == 0
    index = torch.tensor(guided, device=logits.device)
    logits[index] = logits[index].masked_fill_(hidden, float("-inf"))
    return True


def _logprobs(logprobs: Tensor, tokens: Sequence[int], counts: Sequence[int]) -> list[Logprob]:
    """Return, per row of `logprobs` (rows, vocab), that of its token and its `counts` largest."""
    chosen = logprobs.gather(1, torch.tensor(tokens, device=logprobs.device)[:, None])[:, 0].tolist()
    values, ids = (best.tolist() for best in logprobs.topk(min(max(counts), logprobs.shape[1])))
    top = [
        tuple(zip(row[:n], value[:n], strict=True)) for row, value, n in zip(ids, values, counts, strict=True)
    ]
    return [Logprob(*pair) for pair in zip(chosen, top, strict=True)]


def _draw(logits: Tensor, samplings: Sequence[Sampling], uniforms: Sequence[float]) -> list[int]:
    device = logits.device
    temperature = torch.tensor([sampling.temperature for sampling in samplings], device=device)
    # The largest logit becomes 0 first, so that no temperature, however small, overflows.
    scaled = (logits - logits.amax(dim=-1, keepdim=True)) / temperature[:, None]
    probs = scaled.softmax(dim=-1)
    uniform = torch.tensor(uniforms, dtype=torch.float64, device=device)
    tokens: list[int] = [0] * len(samplings)
    filtered = [row for row, sampling in enumerate(samplings) if _has_filter(sampling)]
    whole = [row for row, sampling in enumerate(samplings) if not _has_filter(sampling)]
    for row, token in zip(whole, _invert_cdf(probs[whole], uniform[whole]).tolist(), strict=True):
        tokens[row] = token
    for row in filtered:
        tokens[row] = _draw_filtered(probs[row], samplings[row], uniform[row : row + 1])
    return tokens


def _draw_filtered(probs: Tensor, sampling: Sampling, uniform: Tensor) -> int:
    """Draw from one row: from its most probable candidates, or from all if the filters reach past those."""
    best, ids = probs.topk(min(_CANDIDATES, len(probs)))
    kept = _filter(best, sampling)
    if bool(kept[-1]) and len(best) < len(probs):
        best, ids = probs.sort(descending=True, stable=True)
        kept = _filter(best, sampling)
    return int(ids[_invert_cdf((best * kept)[None], uniform)])


def _filter(best: Tensor, sampling: Sampling) -> Tensor:
    """Return which of the descending probabilities `best` may be drawn; the first always may."""
    inside = best if not sampling.top_k else best[: sampling.top_k]
    # top_p is a share of what top_k left. Without top_k that is everything, also what `best` does not hold.
    mass = inside.sum() if sampling.top_k else torch.ones((), device=best.device)
    is_in_top_p = inside.cumsum(0) - inside < sampling.top_p * mass
    kept = torch.zeros(len(best), dtype=torch.bool, device=best.device)
    kept[: len(inside)] = is_in_top_p & (inside >= sampling.min_p * best[0])
    kept[0] = True
    return kept


def _invert_cdf(probs: Tensor, uniform: Tensor) -> Tensor:
    """Return, per row, the first index whose cumulative probability exceeds `uniform` times the row's sum."""
    cumulative = probs.double().cumsum(dim=-1)
    total = cumulative[:, -1:].contiguous()
    index = torch.searchsorted(cumulative, uniform[:, None] * total, right=True)
    # Rounding may raise the target to the sum: then the last index with any probability.
    return torch.minimum(index, torch.searchsorted(cumulative, total)).squeeze(-1)


def _has_filter(sampling: Sampling) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1.0 or sampling.min_p > 0.0


def _has_penalty(sampling: Sampling) -> bool:
    return (
        sampling.repetition_penalty != 1.0
        or sampling.presence_penalty != 0.0
        or sampling.frequency_penalty != 0.0
    )
