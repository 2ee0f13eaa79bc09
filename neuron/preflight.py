"""What a load would find and take, before anything is downloaded or loaded."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuron import hub, sources
from neuron.models.checkpoint import ADAPTER, CONFIG, ModelLoadError, read_json, wrong_files
from neuron.models.config_sizes import ConfigSizes
from neuron.models.gguf.container import read_container
from neuron.models.gguf.split_files import is_gguf, part_names
from neuron.models.in_situ import IN_SITU
from neuron.published_files import models_among, precisions
from neuron.wire import ApiError, FormatChoice, Preflight

MIB = 1 << 20
Sizes = Mapping[str, int]  # bytes by a file's path from the model's directory on

_CACHED_BYTES = 2  # of a cached value, unless it is coded
_BITS = {"q8_0": 8.5, "q4_k": 4.5, "int4": 4.5, "fp8": 8.0}  # of a weight, scales included
_STORED = {"float32": ("f32", 32), "bfloat16": ("bf16", 16), "float16": ("f16", 16)}
_NOTHING_READ = (
    "its weights are neither safetensors nor GGUF, and nothing else is read: look for another release"
)
# What a GGUF file calls what configurations have.
_GGUF_KEYS = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
}


async def preflight(source: str, models_dir: Path | None) -> Preflight:
    """Return what there is of a model or repository, and in which formats it can be loaded.

    Raises `ApiError` as a load would, for what is not there or is no model.
    """
    if path := sources.local_path(source, models_dir):
        return await asyncio.to_thread(_on_disk, source, path)
    if not sources.HUB_ID.fullmatch(source):
        raise sources.not_among(source, models_dir)
    return await asyncio.to_thread(_on_hub, source)


def _on_disk(source: str, path: Path) -> Preflight:
    place = "shipped" if source in sources.SHIPPED else "disk"
    found = Preflight(source=source, place=place, path=str(path.absolute()))
    try:
        if path.is_dir():
            return _of_directory(found, path)
        if path.is_file() and is_gguf(path):
            return _of_file(found, path)
    except ModelLoadError as error:
        raise ApiError(422, error.code, error.message) from error
    raise ApiError(
        404, "model_not_found", f"{path} is no directory and no GGUF file on this node.", param="source"
    )


def _of_directory(found: Preflight, path: Path) -> Preflight:
    files = (file for file in path.rglob("*") if file.is_file())
    sizes = {file.relative_to(path).as_posix(): file.stat().st_size for file in files}
    config = read_json(path / CONFIG) if CONFIG in sizes else {}
    if CONFIG not in sizes and (models := models_among(sizes)):
        config = _gguf_config(path / models[0])
    _describe(found, config, sizes, missing={})
    if not found.choices:
        raise wrong_files(path) or ModelLoadError("model_unsupported", f"{path}: {_NOTHING_READ}")
    return found


def _of_file(found: Preflight, path: Path) -> Preflight:
    parts = (path.with_name(name) for name in part_names(path.name))
    sizes = {part.name: part.stat().st_size for part in parts if part.is_file()}
    _describe(found, _gguf_config(path), sizes, missing={})
    return found


def _on_hub(repo: str) -> Preflight:
    sizes = hub.sizes(repo)
    found = Preflight(source=repo, place="hub", disk_free_mb=_free_mb(hub.cache_folder()))
    config = hub.read_small(repo, CONFIG) if CONFIG in sizes else {}
    _describe(found, config, sizes, missing=hub.missing(repo, sizes))
    if not found.choices:
        raise ApiError(422, "model_unsupported", f"{repo}: {_NOTHING_READ}", param="source")
    return found


def _free_mb(folder: Path) -> int:
    """Return what is free on the disk that has the folder, or would have it."""
    there = next(each for each in (folder, *folder.parents) if each.exists())
    return shutil.disk_usage(there).free // MIB


def _gguf_config(path: Path) -> dict[str, Any]:
    """Return what the keys of a GGUF file say, by the names of configurations."""
    values = read_container(path).values
    family = str(values.get("general.architecture", ""))
    config = {name: values.get(f"{family}.{key}") for name, key in _GGUF_KEYS.items()}
    return config | {"architectures": [family]}


# --- what is told -----------------------------------------------------------------------------------------


def _describe(found: Preflight, config: Mapping[str, Any], sizes: Sizes, *, missing: Sizes) -> None:
    """Fill in what a configuration and the sizes of files say; `missing` files would be downloaded."""
    names = config.get("architectures")
    found.architecture = str(names[0]) if isinstance(names, list) and names else ""
    of_text = ConfigSizes.of(config)
    found.context = of_text.size("max_position_embeddings") or None
    if cached := of_text.cached_values:
        found.cache_mb_per_1k = round(1000 * cached * _CACHED_BYTES / MIB, 2)
    found.choices = [*_whole_models(config, sizes, missing), *_published(sizes, missing)]
    if config.get("auto_map") and found.place != "shipped":
        found.warnings.append(
            "It brings code of its own, which is not run: it loads only if transformers has its class."
        )
    least = min((choice.download_mb for choice in found.choices), default=0)
    if found.disk_free_mb is not None and least > found.disk_free_mb:
        found.warnings.append(
            f"Its smallest form is a download of {least} MiB, {found.disk_free_mb} MiB are free on the disk: "
            "make room, or set HF_HOME to another disk."
        )


def _whole_models(config: Mapping[str, Any], sizes: Sizes, missing: Sizes) -> list[FormatChoice]:
    """Return the forms that the safetensors files can be loaded in."""
    needed = hub.meant(sizes)
    weights = sum(size for name, size in needed.items() if name.endswith(".safetensors"))
    if not weights or (CONFIG not in sizes and ADAPTER not in sizes):
        return []
    download = _mib(sum(size for name, size in missing.items() if name in needed))
    if CONFIG not in sizes:
        note = "an adapter: name it BASE:NAME, after the model that it is for"
        return [
            FormatChoice(quant="", format="LoRA", download_mb=download, weights_mb=_mib(weights), note=note)
        ]
    quantized = config.get("quantization_config")
    if isinstance(quantized, dict):
        name = str(quantized.get("quant_method") or "quantized")
        return [
            FormatChoice(
                quant="", format=name, download_mb=download, weights_mb=_mib(weights), note="as published"
            )
        ]
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
    name, bits = _STORED.get(dtype, ("bf16", 16))
    plain = _embedding_bytes(config, bits)
    made = [
        FormatChoice(
            quant="", format=name, download_mb=download, weights_mb=_mib(weights), note="as published"
        )
    ]
    for quant in IN_SITU:
        size = plain + max(0, weights - plain) * _BITS[quant] / bits
        note = "quantized while it is loaded"
        made.append(
            FormatChoice(quant=quant, format=quant, download_mb=download, weights_mb=_mib(size), note=note)
        )
    return made


def _embedding_bytes(config: Mapping[str, Any], bits: int) -> int:
    """Return the size of what stays as it is stored."""
    of_text = ConfigSizes.of(config)
    return of_text.size("vocab_size") * of_text.size("hidden_size") * bits // 8


def _published(sizes: Sizes, missing: Sizes) -> list[FormatChoice]:
    """Return the GGUF files that begin a model, each with its further parts."""
    models = models_among(sizes)
    made = []
    for name, precision in zip(models, precisions(models), strict=True):
        folder = name.rpartition("/")[0]
        parts = [f"{folder}/{part}".lstrip("/") for part in part_names(name.rpartition("/")[2])]
        whole = _mib(sum(sizes.get(part, 0) for part in parts))
        download = _mib(sum(missing.get(part, 0) for part in parts))
        quant = precision if len(models) > 1 else ""
        made.append(
            FormatChoice(quant=quant, format=precision, download_mb=download, weights_mb=whole, note=name)
        )
    return made


def _mib(size: float) -> int:
    return -(-int(size) // MIB)
