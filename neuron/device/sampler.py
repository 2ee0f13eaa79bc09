"""From logits to tokens, each request by its own rules.

Greedy rows take the largest logit. The others are drawn by inverting the distribution at the one random
number that the plan brings, so a row's token depends on its own logits and number and on no other row.

Order, as the field has it: banned and allowed ids, bias, penalties, temperature, top_k, top_p, min_p.
Penalties: repetition (Keskar et al. 2019) counts prompt and answer, presence and frequency (OpenAI) the
answer alone. Logprobs are the model's own: of its logits before any of these, so that they say the same of a
token however it was chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from neuron.pipe import Logprob, Sampling
from neuron.step import Draw, Joined

_CANDIDATES = 256  # tried before a row is sorted whole: enough for nearly every top_k, top_p and min_p


class _SlotState:
    """What the sampler remembers of the request in a slot."""

    def __init__(self, joined: Joined, vocab_size: int, device: torch.device) -> None:
        self.sampling = joined.sampling
        self.biased: tuple[torch.Tensor, torch.Tensor] | None = None
        if joined.sampling.logit_bias:
            ids, biases = zip(*joined.sampling.logit_bias, strict=True)
            self.biased = torch.tensor(ids, device=device), torch.tensor(biases, device=device)
        self.counts: torch.Tensor | None = None
        if _has_penalty(joined.sampling):
            self.seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
            self.seen[torch.tensor(joined.prompt + joined.output, device=device)] = True
            output = torch.tensor(joined.output, dtype=torch.int64, device=device)
            self.counts = torch.bincount(output, minlength=vocab_size)

    def adjust(self, logits: torch.Tensor) -> None:
        """Bias and penalties, on one row of logits in place."""
        if self.biased is not None:
            logits.index_add_(0, *self.biased)
        if self.counts is None:
            return
        rules = self.sampling
        if rules.repetition_penalty != 1.0:
            worse = torch.where(
                logits > 0, logits / rules.repetition_penalty, logits * rules.repetition_penalty
            )
            logits.copy_(torch.where(self.seen, worse, logits))
        logits -= rules.frequency_penalty * self.counts + rules.presence_penalty * (self.counts > 0)

    def count(self, token: int) -> None:
        if self.counts is not None:
            self.counts[token] += 1
            self.seen[token] = True


class Sampler:
    """Draws the tokens of a step and remembers, per slot, what the penalties need."""

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self._slots: list[_SlotState | None] = [None] * num_slots

    def join(self, joined: Joined) -> None:
        self._slots[joined.slot] = _SlotState(joined, self._vocab_size, self._device)

    def sample(
        self, logits: torch.Tensor, slots: Sequence[int], draws: Sequence[Draw]
    ) -> tuple[list[int], dict[int, Logprob]]:
        """One token per row of `logits`, (rows, vocab) in float32, which is used up; and by row the logprobs
        of the requests that want them."""
        states = [self._state(slot) for slot in slots]
        reported = [row for row, state in enumerate(states) if state.sampling.top_logprobs is not None]
        own = logits[reported].log_softmax(dim=-1) if reported else logits
        _allow(logits, draws)
        for row, (state, draw) in enumerate(zip(states, draws, strict=True)):
            if draw.banned:
                logits[row, torch.tensor(draw.banned, device=self._device)] = float("-inf")
            state.adjust(logits[row])
        tokens: list[int] = logits.argmax(dim=-1).tolist()
        warm = [row for row, state in enumerate(states) if state.sampling.temperature > 0]
        if warm:
            rules = [states[row].sampling for row in warm]
            rows = logits if len(warm) == len(states) else logits[torch.tensor(warm, device=self._device)]
            drawn = _draw(rows, rules, [draws[row].uniform for row in warm])
            for row, token in zip(warm, drawn, strict=True):
                tokens[row] = token
        for state, token in zip(states, tokens, strict=True):
            state.count(token)
        counts = [states[row].sampling.top_logprobs or 0 for row in reported]
        logprobs = _logprobs(own, [tokens[row] for row in reported], counts) if reported else []
        return tokens, dict(zip(reported, logprobs, strict=True))

    def score(self, logits: torch.Tensor, slots: Sequence[int], tokens: Sequence[int]) -> list[Logprob]:
        """How probable each row of `logits` held the token beside it, for the request in the slot."""
        counts = [self._state(slot).sampling.top_logprobs or 0 for slot in slots]
        return _logprobs(logits.log_softmax(dim=-1), tokens, counts)

    def _state(self, slot: int) -> _SlotState:
        state = self._slots[slot]
        assert state is not None
        return state


def _allow(logits: torch.Tensor, draws: Sequence[Draw]) -> None:
    """Leave of each guided row what its packed bits allow."""
    guided = [row for row, draw in enumerate(draws) if draw.allowed is not None]
    if not guided:
        return
    width = -(-logits.shape[1] // 8)
    packed = b"".join(
        (draw.allowed or b"")[:width].ljust(width, b"\0") for draw in draws if draw.allowed is not None
    )
    rows = torch.frombuffer(bytearray(packed), dtype=torch.uint8).view(len(guided), width).to(logits.device)
    bits = (rows[:, :, None] >> torch.arange(8, dtype=torch.uint8, device=logits.device)) & 1
    hidden = bits.flatten(1)[:, : logits.shape[1]] == 0
    index = torch.tensor(guided, device=logits.device)
    logits[index] = logits[index].masked_fill_(hidden, float("-inf"))


def _logprobs(own: torch.Tensor, tokens: Sequence[int], counts: Sequence[int]) -> list[Logprob]:
    """Per row of `own`, log-probabilities over the vocabulary, that of its token and its `counts` best."""
    chosen = own.gather(1, torch.tensor(tokens, device=own.device)[:, None])[:, 0].tolist()
    values, ids = (best.tolist() for best in own.topk(min(max(counts), own.shape[1])))
    top = [
        tuple(zip(row[:n], value[:n], strict=True)) for row, value, n in zip(ids, values, counts, strict=True)
    ]
    return [Logprob(*pair) for pair in zip(chosen, top, strict=True)]


def _draw(logits: torch.Tensor, rules: Sequence[Sampling], uniforms: Sequence[float]) -> list[int]:
    device = logits.device
    temperature = torch.tensor([rule.temperature for rule in rules], device=device)
    # The largest logit comes to 0 first, so that no temperature, however small, overflows.
    scaled = (logits - logits.amax(dim=-1, keepdim=True)) / temperature[:, None]
    probs = scaled.softmax(dim=-1)
    where = torch.tensor(uniforms, dtype=torch.float64, device=device)
    tokens: list[int] = [0] * len(rules)
    filtered = [row for row, rule in enumerate(rules) if _has_filter(rule)]
    whole = [row for row, rule in enumerate(rules) if not _has_filter(rule)]
    for row, token in zip(whole, _invert(probs[whole], where[whole]).tolist(), strict=True):
        tokens[row] = token
    for row in filtered:
        tokens[row] = _draw_filtered(probs[row], rules[row], where[row : row + 1])
    return tokens


def _draw_filtered(probs: torch.Tensor, rule: Sampling, where: torch.Tensor) -> int:
    """One row, from its most probable candidates; from all of them if those do not settle it."""
    best, ids = probs.topk(min(_CANDIDATES, len(probs)))
    kept = _keep(best, rule)
    if bool(kept[-1]) and len(best) < len(probs):
        best, ids = probs.sort(descending=True, stable=True)
        kept = _keep(best, rule)
    return int(ids[_invert((best * kept)[None], where)])


def _keep(best: torch.Tensor, rule: Sampling) -> torch.Tensor:
    """Which of the descending probabilities `best` may be drawn: always the first."""
    inside = best if not rule.top_k else best[: rule.top_k]
    # top_p is a share of what top_k left. Without top_k that is everything, also what `best` does not show.
    mass = inside.sum() if rule.top_k else torch.ones((), device=best.device)
    kept = torch.zeros(len(best), dtype=torch.bool, device=best.device)
    kept[: len(inside)] = (inside.cumsum(0) - inside < rule.top_p * mass) & (inside >= rule.min_p * best[0])
    kept[0] = True
    return kept


def _invert(probs: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Per row the first index whose cumulated probability exceeds `where` times the row's sum."""
    cumulated = probs.double().cumsum(dim=-1)
    total = cumulated[:, -1:].contiguous()
    index = torch.searchsorted(cumulated, where[:, None] * total, right=True)
    # Rounding may bring the target up to the sum: the last index that has any probability, then.
    return torch.minimum(index, torch.searchsorted(cumulated, total)).squeeze(-1)


def _has_filter(rule: Sampling) -> bool:
    return rule.top_k > 0 or rule.top_p < 1.0 or rule.min_p > 0.0


def _has_penalty(rule: Sampling) -> bool:
    return rule.repetition_penalty != 1.0 or rule.presence_penalty != 0.0 or rule.frequency_penalty != 0.0
