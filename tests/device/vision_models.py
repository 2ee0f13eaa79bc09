"""Tiny random vision models with tokenizer and image processor, as Hugging Face directories."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests.device.zoo import _COMMON, VOCAB

IMAGE, IMAGE_ID = "<image>", 5
SIDE, PATCH = 28, 7  # 16 patches an image
TILES = ("<global-img>", *(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)))
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
)


def tokenizer(**named: str) -> Any:
    """A tokenizer whose attributes name some of its tokens besides."""
    names = [
        "<pad>",
        "<s>",
        "</s>",
        "<unk>",
        "<fake_token_around_image>",
        IMAGE,
        "<end_of_utterance>",
        *TILES,
    ]
    words = ["user", "assistant", "system", "tool", *(f"w{n}" for n in range(VOCAB))]
    vocab = {word: at for at, word in enumerate([*names, *words][:VOCAB])}
    made = Tokenizer(WordLevel(vocab, unk_token="<unk>"))
    made.pre_tokenizer = Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=names[4:],
        **({"extra_special_tokens": named} if named else {}),
    )


def picture(seed: int, width: int = 40, height: int = 30) -> bytes:
    """A PNG of noise."""
    noise = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed))
    file = io.BytesIO()
    Image.fromarray(noise.to(torch.uint8).numpy()).save(file, "PNG")
    return file.getvalue()


def _llava() -> tuple[Any, Any]:
    vision = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        image_size=SIDE, patch_size=PATCH, projection_dim=32, initializer_range=0.3,
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=transformers.LlamaConfig(**_COMMON),
        image_token_id=IMAGE_ID,
        image_seq_length=16,
    )
    size = {"height": SIDE, "width": SIDE}
    processor = transformers.LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=size),
        tokenizer=tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
        chat_template=TEMPLATE,
    )
    return config, processor


def _idefics3() -> tuple[Any, Any]:
    """Cuts an image into up to four tiles and a small one of the whole, with 4 placeholders each."""
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "image_size": SIDE, "patch_size": PATCH, "initializer_range": 0.3,
    }  # fmt: skip
    config = transformers.Idefics3Config(
        vision_config=vision,
        text_config=_COMMON | {"model_type": "llama"},
        image_token_id=IMAGE_ID,
        scale_factor=2,
        tie_word_embeddings=False,
        pad_token_id=0,
    )
    images = Idefics3ImageProcessorPil(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE})
    processor = transformers.Idefics3Processor(images, tokenizer(), image_seq_len=4, chat_template=TEMPLATE)
    return config, processor


def _qwen3_vl() -> tuple[Any, Any]:
    """Rows and columns of positions, and features of the tower for two layers of the text besides."""
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "patch_size": PATCH,
        "out_hidden_size": _COMMON["hidden_size"], "deepstack_visual_indexes": [0, 1],
        "num_position_embeddings": 16, "initializer_range": 0.3,
    }  # fmt: skip
    head_dim = _COMMON["hidden_size"] // _COMMON["num_attention_heads"]
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": _thirds(head_dim // 2)}
    config = transformers.Qwen3VLConfig(
        vision_config=vision,
        text_config=_COMMON | {"head_dim": head_dim, "rope_parameters": rope},
        image_token_id=IMAGE_ID,
        tie_word_embeddings=False,
    )
    least = 4 * PATCH * PATCH
    images = Qwen2VLImageProcessorPil(
        patch_size=PATCH, size={"shortest_edge": least, "longest_edge": 16 * least}
    )
    # The processor for videos needs torchvision.
    lenient = type("Qwen3VLProcessor", (transformers.Qwen3VLProcessor,), {})
    lenient.check_argument_for_proper_class = lambda *_: None
    named = tokenizer(image_token=IMAGE, video_token="<unk>", vision_bos_token=TILES[0])
    return config, lenient(images, named, None, chat_template=TEMPLATE)


def _thirds(count: int) -> list[int]:
    return [count - 2 * (count // 3), count // 3, count // 3]


def _gemma3() -> tuple[Any, Any]:
    """The tokens of an image see each other, and windows are shorter than an image."""
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
        "image_size": SIDE, "patch_size": PATCH, "initializer_range": 0.3, "vision_use_head": False,
    }  # fmt: skip
    config = transformers.Gemma3Config(
        vision_config=vision,
        text_config=_COMMON
        | {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
        image_token_index=IMAGE_ID,
        boi_token_index=7,
        eoi_token_index=8,
        mm_tokens_per_image=16,
        tie_word_embeddings=False,
    )
    images = Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    named = tokenizer(image_token=IMAGE, boi_token=TILES[0], eoi_token=TILES[1])
    template = TEMPLATE.replace(IMAGE, TILES[0])  # as published: the processor adds the placeholders
    return config, transformers.Gemma3Processor(images, named, image_seq_length=16, chat_template=template)


KINDS = {"gemma3": _gemma3, "idefics3": _idefics3, "llava": _llava, "qwen3_vl": _qwen3_vl}


_DRAWN = {"gemma3", "qwen3_vl"}  # whose texts would repeat one token


def build(kind: str = "llava") -> tuple[Any, Any]:
    """The model, in float32, and its processor."""
    config, processor = KINDS[kind]()
    torch.manual_seed(7)
    model = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    for name, parameter in model.named_parameters():
        if kind in _DRAWN and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2 if "embed" in name else parameter.shape[-1] ** -0.5)
        elif (
            "projector" in name or "class_embedding" in name or "modality_projection" in name
        ):  # too small to tell images apart otherwise
            torch.nn.init.normal_(parameter, std=0.3)
    return model, processor


def save(path: Path, kind: str = "llava") -> Path:
    model, processor = build(kind)
    model.save_pretrained(path)
    parts = [processor]
    if getattr(processor, "video_processor", "") is None:
        parts = [processor.image_processor, processor.tokenizer]
        (path / "chat_template.jinja").write_text(TEMPLATE)
    for part in parts:
        part.save_pretrained(path)
    return path
