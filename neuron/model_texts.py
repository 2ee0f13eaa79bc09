"""What a model's files say about text, whatever they are: a Hugging Face directory, or GGUF files."""

from __future__ import annotations

from pathlib import Path

from neuron.models.gguf.split_files import is_gguf
from neuron.models.gguf.text import read_gguf_text
from neuron.text.directory import Fields, FitTemplate, TextFiles, TextSettings, model_text, read_model_text
from neuron.text.model_text import ModelText


def read_text(path: Path, settings: TextSettings, fit: FitTemplate) -> ModelText:
    """Return what the files at `path` say; blocks on the disk, and while `fit` probes templates.

    Raises `BrokenModelError`, ModelLoadError, and whatever `fit` raises.
    """
    if not is_gguf(path):
        return read_model_text(path, settings, fit)
    found = read_gguf_text(path)
    files = TextFiles(
        found.tokenizer,
        Fields(path, found.config),
        Fields(path, found.generation),
        Fields(path, found.naming),
        has_template_files=False,
    )
    return model_text(files, settings, fit)
