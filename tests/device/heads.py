"""Tiny checkpoints with multi-token heads, and what such a head guesses by definition."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.cache_utils import MtpCache
from transformers.modeling_layers import MtpModel

from neuron.models.decoder import AnyDecoder, load_decoder, model_dtype
from neuron.models.multi_token import choose_head
from neuron.models.reading import read_checkpoint
from neuron.models.weights import LoadOptions
from tests.device.zoo import build, save

LAYERS = 3  # of a model without its head
FAMILIES = ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "deepseek_v3", "glm4_moe", "glm4_moe_lite")
_MORE: dict[str, Any] = {"num_hidden_layers": LAYERS + 1}
_QWEN = {"layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"]}
_QWEN_NAMES = ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "fc", "norm")
_NAMES = ("enorm", "hnorm", "eh_proj", "shared_head.norm")


def whole(family: str) -> Any:
    """transformers' model with one layer more, which is the head's."""
    more = _MORE | (_QWEN if family.startswith("qwen") else {})
    if family in {"deepseek_v3", "glm4_moe_lite"}:
        more |= {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]}
    return build(family, **more)


def own_tensors(hidden: int, *, plus_one: bool) -> list[Tensor]:
    """The norms of embedding and state, the projection, and the last norm."""
    made = torch.Generator().manual_seed(3)
    norms = [torch.randn(hidden, generator=made) * 0.3 + (not plus_one) for _ in range(3)]
    projection = torch.randn(hidden, 2 * hidden, generator=made) / hidden**0.5
    return [*norms[:2], projection, norms[2]]


def _surely(tensors: dict[str, Tensor], own: list[Tensor], *, plus_one: bool) -> list[Tensor]:
    """Make a model of which each token follows from the last alone, and the head that knows as much."""
    for name, tensor in tensors.items():
        if name.split(".")[-2] in {"o_proj", "out_proj", "down_proj"} or name.endswith("experts.down_proj"):
            tensor.zero_()
    hidden = len(own[0])
    same = torch.zeros(hidden) if plus_one else torch.ones(hidden)
    return [same, same.clone(), torch.eye(hidden, 2 * hidden), tensors["model.norm.weight"].clone()]


def save_with_head(path: Path, family: str, *, surely: bool = False) -> Path:
    """Save a model with its head, named as its publisher names it.

    It guesses what the model says where `surely`, and otherwise by chance.
    """
    model = whole(family)
    more = {key: value for key, value in model.config.to_dict().items() if key in _MORE or key in _QWEN}
    more |= (
        {"mlp_layer_types": model.config.mlp_layer_types}
        if family in {"deepseek_v3", "glm4_moe_lite"}
        else {}
    )
    save(path, family, **more)
    is_qwen = family.startswith("qwen")
    layer = f"model.layers.{LAYERS}."
    tensors = load_file(path / "model.safetensors")
    if is_qwen:
        tensors = {name.replace(layer, "mtp.layers.0."): tensor for name, tensor in tensors.items()}
    own = own_tensors(model.config.hidden_size, plus_one=is_qwen)
    if surely:
        own = _surely(tensors, own, plus_one=is_qwen)
    prefix, names = ("mtp.", _QWEN_NAMES) if is_qwen else (layer, _NAMES)
    tensors |= {f"{prefix}{name}.weight": tensor for name, tensor in zip(names, own, strict=True)}
    if not is_qwen:
        tensors |= {
            f"{layer}embed_tokens.weight": tensors["model.embed_tokens.weight"].clone(),
            f"{layer}shared_head.head.weight": tensors["lm_head.weight"].clone(),
        }
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    config["num_hidden_layers"] = LAYERS
    for kinds in ("layer_types", "mlp_layer_types"):
        if config.get(kinds):
            config[kinds] = config[kinds][:LAYERS]
    (path / "config.json").write_text(json.dumps(config))
    return path


def headed(path: Path, wish: Any = "mtp", dtype: str | None = None) -> AnyDecoder:
    checkpoint = read_checkpoint(path)
    options = LoadOptions(model_dtype(checkpoint, dtype), torch.device("cpu"), on_progress=lambda _: None)
    return load_decoder(choose_head(checkpoint, wish), options)


class TransformersHead:
    """What transformers' own head guesses, of families whose checkpoints it reads heads of."""

    def __init__(self, family: str) -> None:
        self._model = model = whole(family)
        block = model.model.layers[LAYERS].state_dict()
        model.model.layers, model.config.num_hidden_layers = model.model.layers[:LAYERS], LAYERS
        if kinds := getattr(model.config, "mlp_layer_types", None):
            model.config.mlp_layer_types, model.config.mtp_mlp_layer_types = kinds[:LAYERS], kinds[LAYERS:]
        self._head = MtpModel(model, 1).eval()
        made: Any = self._head.layers[0]
        made.mtp_block.load_state_dict(block)
        own = own_tensors(model.config.hidden_size, plus_one=False)
        for module, tensor in zip((made.enorm, made.hnorm, made.eh_proj, made.post_norm), own, strict=True):
            module.weight.data.copy_(tensor)

    @torch.inference_mode()
    def guess(self, text: Sequence[int]) -> int:
        """The token that is guessed after a text."""
        tokens = torch.tensor([list(text)])
        states = self._model(input_ids=tokens[:, :-1], output_hidden_states=True).hidden_states[-1]
        found, *_ = self._head(
            input_ids=tokens[:, 1:],
            last_hidden_states=states,
            attention_mask=None,
            position_ids=torch.arange(1, tokens.shape[1])[None],
            mtp_cache=MtpCache(config=self._model.config.get_mtp_config()),
        )
        return int(found)


class ReferenceHead:
    """What a head guesses: its layer is transformers', all else is written down here."""

    def __init__(self, family: str) -> None:
        self._model = whole(family)
        self._plus_one = family.startswith("qwen")
        own = own_tensors(self._model.config.hidden_size, plus_one=self._plus_one)
        self._embedding_norm, self._hidden_norm, self._projection, self._last_norm = own

    @torch.inference_mode()
    def guesses(self, text: Sequence[int], count: int) -> list[int]:
        """The `count` tokens that are guessed after a text."""
        model, follow = self._model, list(text[1:])
        states = [*self._states(text[:-1])]
        found: list[int] = []
        while len(found) < count:
            made = self._run(torch.stack(states), torch.tensor(follow))
            found.append(int(model.lm_head(made[-1]).argmax()))
            states.append(made[-1])
            follow.append(found[-1])
        return found

    def _states(self, tokens: Sequence[int]) -> Tensor:
        """The model's own hidden states, without the head's layer."""
        body = self._model.model
        layers, body.layers = body.layers, body.layers[:LAYERS]
        kept, body.config.num_hidden_layers = body.config.num_hidden_layers, LAYERS
        try:
            out = body(input_ids=torch.tensor([list(tokens)]), use_cache=False)
        finally:
            body.layers, body.config.num_hidden_layers = layers, kept
        states: Tensor = out.last_hidden_state[0]
        return states

    def _run(self, states: Tensor, follow: Tensor) -> Tensor:
        body, count = self._model.model, len(states)
        embedding = self._norm(body.embed_tokens(follow), self._embedding_norm)
        x = torch.cat([embedding, self._norm(states, self._hidden_norm)], -1) @ self._projection.T
        places = torch.arange(count)[None]
        mask = torch.full((count, count), float("-inf")).triu(1)[None, None]
        x = body.layers[LAYERS](
            x[None],
            attention_mask=mask,
            position_ids=places,
            position_embeddings=body.rotary_emb(x[None], places),
        )
        return self._norm((x[0] if isinstance(x, tuple) else x)[0], self._last_norm)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        scale = (x.pow(2).mean(-1, keepdim=True) + self._model.config.rms_norm_eps).rsqrt()
        return x * scale * (weight + 1 if self._plus_one else weight)
