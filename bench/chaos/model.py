"""A model that takes some memory and little time: random weights under helexa-tiny's tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path

from bench.chaos.world import KV_MB
from neuron.models.tiny import WEIGHTS_DIR

_OVERHEAD_MB = 6  # rounding, activations of a step


def make_model(folder: Path) -> tuple[Path, int]:
    """Write the model to `folder`; return the folder and the MiB that the model takes on a device."""
    import torch  # noqa: PLC0415 - seconds, which a run without a model of its own does not need
    import transformers  # noqa: PLC0415

    config = transformers.Qwen3Config(
        vocab_size=1536,
        hidden_size=512,
        intermediate_size=6144,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    for file in WEIGHTS_DIR.iterdir():
        if file.name not in {"config.json", "model.safetensors"}:
            shutil.copy(file, folder)
    weights = (folder / "model.safetensors").stat().st_size >> 20
    return folder, weights + KV_MB + _OVERHEAD_MB
