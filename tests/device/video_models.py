"""Tiny random models that see videos, and what transformers makes of one by definition."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from neuron.pipe import VideoFile
from tests.device.vision_models import IMAGE_ID, PATCH, TEMPLATE, TILES, _thirds, picture, tokenizer
from tests.device.zoo import _COMMON

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5")
VIDEO, VIDEO_ID = TILES[2], 9
START, END = TILES[0], TILES[1]
SIZE = (42, 28)  # of a frame: 3 × 2 tokens, and no scaling
PLACED = TEMPLATE.replace(
    "{% else %}", f"{{% elif part['type'] == 'video' %}}{START} {VIDEO} {END} {{% else %}}"
)
_HEAD = _COMMON["hidden_size"] // _COMMON["num_attention_heads"]
_ROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": _thirds(_HEAD // 2)}
_TOWER: dict[str, Any] = {
    "depth": 2, "intermediate_size": 48, "num_heads": 4, "patch_size": PATCH, "initializer_range": 0.3,
}  # fmt: skip
_TOWERS: dict[str, dict[str, Any]] = {
    "qwen2_vl": {"embed_dim": 32, "hidden_size": _COMMON["hidden_size"], "mlp_ratio": 2},
    "qwen2_5_vl": {
        "hidden_size": 32, "out_hidden_size": _COMMON["hidden_size"], "window_size": 28,
        "fullatt_block_indexes": [1], "tokens_per_second": 4,
    },
    "qwen3_vl": {
        "hidden_size": 32, "out_hidden_size": _COMMON["hidden_size"], "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
    },
    "qwen3_5": {"hidden_size": 32, "out_hidden_size": _COMMON["hidden_size"], "num_position_embeddings": 16},
}  # fmt: skip
_TEXTS: dict[str, dict[str, Any]] = {
    "qwen3_5": {
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
        "linear_value_head_dim": 8, "rope_parameters": _ROPE | {"partial_rotary_factor": 1.0},
    },
}  # fmt: skip
_CLASSES = {
    "qwen2_vl": ("Qwen2VLConfig", "Qwen2VLProcessor"),
    "qwen2_5_vl": ("Qwen2_5_VLConfig", "Qwen2_5_VLProcessor"),
    "qwen3_vl": ("Qwen3VLConfig", "Qwen3VLProcessor"),
    "qwen3_5": ("Qwen3_5Config", "Qwen3VLProcessor"),
}


def build(family: str) -> tuple[Any, Any]:
    """The model, in float32, and its processor."""
    config_name, processor_name = _CLASSES[family]
    config = getattr(transformers, config_name)(
        vision_config=_TOWER | _TOWERS[family],
        text_config=_COMMON | {"head_dim": _HEAD, "rope_parameters": _ROPE} | _TEXTS.get(family, {}),
        image_token_id=IMAGE_ID,
        video_token_id=VIDEO_ID,
        tie_word_embeddings=False,
    )
    torch.manual_seed(7)
    model = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2 if "embed" in name else parameter.shape[-1] ** -0.5)
    least = 4 * PATCH * PATCH
    images = Qwen2VLImageProcessorPil(
        patch_size=PATCH, size={"shortest_edge": least, "longest_edge": 16 * least}
    )
    cls = getattr(transformers, processor_name)
    lenient: Any = type(cls.__name__, (cls,), {"check_argument_for_proper_class": lambda *_: None})
    named = tokenizer(
        image_token="<image>", video_token=VIDEO, vision_start_token=START, vision_end_token=END,
        vision_bos_token=START,
    )  # fmt: skip
    return model, lenient(images, named, None, chat_template=PLACED)


def save(path: Path, family: str) -> Path:
    model, processor = build(family)
    model.save_pretrained(path)
    (path / "chat_template.jinja").write_text(PLACED)
    for part in (processor.image_processor, processor.tokenizer):
        part.save_pretrained(path)
    size = {"shortest_edge": 4 * PATCH * PATCH, "longest_edge": 1 << 20}
    (path / "video_preprocessor_config.json").write_text(json.dumps({"size": size}))
    return path


def video(seed: int, count: int, fps: float = 2.0) -> VideoFile:
    return VideoFile([picture(seed * 100 + at, *SIZE) for at in range(count)], fps)


def patches(frames: Sequence[bytes], processor: Any) -> tuple[Tensor, Tensor]:
    """The patches of a video, and their grid: pixels by patch, the patches of a token's square together."""
    images = [np.asarray(Image.open(io.BytesIO(frame)).convert("RGB"), np.float32) for frame in frames]
    images += images[-1:] * (len(images) % 2)
    own = processor.image_processor
    mean, deviation = torch.tensor(own.image_mean), torch.tensor(own.image_std)
    x = (torch.from_numpy(np.stack(images)) / 255 - mean) / deviation  # (frames, height, width, channels)
    rows, columns = x.shape[1] // PATCH, x.shape[2] // PATCH
    found = [
        x[2 * t : 2 * t + 2, r * PATCH : (r + 1) * PATCH, c * PATCH : (c + 1) * PATCH].permute(3, 0, 1, 2)
        for t in range(len(x) // 2)
        for square_row in range(rows // 2)
        for square_column in range(columns // 2)
        for r in (2 * square_row, 2 * square_row + 1)
        for c in (2 * square_column, 2 * square_column + 1)
    ]
    return torch.stack(found).flatten(1), torch.tensor([[len(x) // 2, rows, columns]])


def marks(family: str, count: int, fps: float) -> str:
    """The text that stands for a video in a prompt, as its processor would write it."""
    pairs, tokens = -(-count // 2), SIZE[0] * SIZE[1] // (2 * PATCH) ** 2
    if family in {"qwen2_vl", "qwen2_5_vl"}:
        return VIDEO * (pairs * tokens)
    times = [min(at, count - 1) / fps for at in range(2 * pairs)]
    middles = [(times[2 * at] + times[2 * at + 1]) / 2 for at in range(pairs)]
    return "".join(f"<{time:.1f} seconds>{START}{VIDEO * tokens}{END}" for time in middles)


def save_text(path: Path) -> Path:
    """A model that reads text only, with the same tokenizer."""
    config = transformers.LlamaConfig(**_COMMON)
    torch.manual_seed(7)
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    tokenizer().save_pretrained(path)
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return path
