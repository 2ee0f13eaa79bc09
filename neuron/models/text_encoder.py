"""The hidden states of texts, by transformers: in one row where the class allows, else padded, or one by one.

How a class runs is found out when it is loaded: texts that run together must come to what each comes to
alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from neuron.models import private
from neuron.models.flat_attention import FLAT_NAME, use_lengths
from neuron.models.packed_layers import pack_layers
from neuron.step import EncodedText

_PAD = 0  # any id: padding is masked
_TRIAL = (EncodedText((2,) * 3), EncodedText((2,) * 12, second=7), EncodedText((2,) * 5))
_SAME = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-3}  # of the cosine to 1
_LOCAL = ("sliding_window", "local_attention")  # keys of a configuration whose layers may not see all

_Way = Callable[[Sequence[EncodedText]], list[Tensor]]


class TextEncoder:
    """Runs a model of transformers without a head, or the body of one that has one."""

    def __init__(self, model: Any, *, tells_types: bool = True) -> None:
        """Unless it `tells_types`, a class is not told which tokens are of a second text."""
        self._model = model
        self.device: torch.device = model.device
        self._taken = inspect.signature(model.forward).parameters.keys()
        self._num_types: int = (tells_types and getattr(model.config, "type_vocab_size", None)) or 0
        self._first: int | None = None  # position of a text's first token, where it must be told
        self.encode: _Way = self._alone
        self._choose()

    @property
    def pads(self) -> bool:
        """Whether shorter texts of a step cost as much as its longest."""
        return self.encode == self._padded

    @torch.inference_mode()
    def _choose(self) -> None:
        """Take the first way that comes to the hidden states of texts that run alone."""
        alone = self._alone(_TRIAL)
        config = self._model.config.get_text_config()
        is_flat = private.supports_attention_interface(type(self._model)) and not _is_local(config)
        if is_flat and "position_ids" in self._taken:
            before = private.attention_implementation(self._model)
            self._model.set_attn_implementation(FLAT_NAME)
            padding = getattr(config, "pad_token_id", None)
            for first in dict.fromkeys((0, (padding or 0) + 1)):
                self._first = first
                if self._agrees(self._flat, alone):
                    self.encode = self._flat
                    break
            else:
                self._model.set_attn_implementation(before)
        if self.encode == self._alone and self._agrees(self._padded, alone):
            self.encode = self._padded
        undo = pack_layers(self._model)
        if not self._agrees(self.encode, alone):
            undo()

    def _agrees(self, way: _Way, alone: Sequence[Tensor]) -> bool:
        try:
            found = way(_TRIAL)
        except (torch.AcceleratorError, torch.OutOfMemoryError):
            raise
        except Exception:  # noqa: BLE001 - the class does not run that way
            return False
        pairs = zip(found, alone, strict=True)
        least = min(
            float(torch.cosine_similarity(mine.float(), wanted.float(), dim=-1).min())
            for mine, wanted in pairs
        )
        return least > 1 - _SAME[self._model.dtype]

    def _flat(self, texts: Sequence[EncodedText]) -> list[Tensor]:
        lengths = [len(text.tokens) for text in texts]
        device = self._model.device
        assert self._first is not None
        places = torch.cat([torch.arange(n, device=device) for n in lengths])[None]
        rows = [token for text in texts for token in text.tokens]
        types = [kind for text in texts for kind in text.types]
        with use_lengths(lengths):
            hidden = self._run(rows, types, position_ids=places + self._first)
        return list(torch.split(hidden[0], lengths))

    def _padded(self, texts: Sequence[EncodedText]) -> list[Tensor]:
        width = max(len(text.tokens) for text in texts)
        device = self._model.device
        lengths = torch.tensor([len(text.tokens) for text in texts], device=device)
        mask = (torch.arange(width, device=device) < lengths[:, None]).long()
        rows = [[*text.tokens, *[_PAD] * (width - len(text.tokens))] for text in texts]
        types = [[*text.types, *[0] * (width - len(text.tokens))] for text in texts]
        hidden = self._run(rows, types, attention_mask=mask)
        return [states[:length] for states, length in zip(hidden, lengths.tolist(), strict=True)]

    def _alone(self, texts: Sequence[EncodedText]) -> list[Tensor]:
        found = []
        for text in texts:
            mask = torch.ones(1, len(text.tokens), dtype=torch.int64, device=self._model.device)
            found.append(self._run(list(text.tokens), list(text.types), attention_mask=mask)[0])
        return found

    def _run(self, rows: Sequence[Any], types: Sequence[Any], **told: Tensor) -> Tensor:
        device = self._model.device
        ids = torch.tensor(rows, device=device)
        if "token_type_ids" in self._taken and self._num_types:
            kinds = torch.tensor(types, device=device).clamp(max=self._num_types - 1)
            told["token_type_ids"] = kinds.view(-1, ids.shape[-1])
        out = self._model(input_ids=ids.view(-1, ids.shape[-1]), **told)
        hidden: Tensor = out.last_hidden_state
        return hidden


def _is_local(config: Any) -> bool:
    """Return whether some layers see a part of a text only, which a mask alone may tell them."""
    stated = config.to_dict()  # attributes of some classes differ by layer, and asking for them raises
    kinds = stated.get("layer_types") or ()
    return any(stated.get(key) for key in _LOCAL) or any("full" not in str(kind) for kind in kinds)
