"""Rankers and embedding models beside sentence-transformers, which is measured where it is installed."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from bench import command
from bench.budget import Budget
from bench.engine.serving import alternate
from neuron.engine.embedding_scheduler import EmbeddingScheduler
from neuron.engine.scheduler_limits import SchedulerLimits
from neuron.models.embedder import Embedder
from neuron.models.reading import read_checkpoint
from neuron.models.sentence_loading import load_sentence_model
from neuron.models.sentence_modules import read_sentence_modules
from neuron.models.weights import LoadOptions
from neuron.pipe import Embed
from neuron.text.pairs import encode_pairs

FIGURES = ("rerank_over_reference", "embed_over_reference")
WORDS = 4000
SHAPE = {  # MiniLM's, of six layers
    "vocab_size": WORDS + 4, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
    "intermediate_size": 1536, "max_position_embeddings": 512, "pad_token_id": 0,
}  # fmt: skip
LEAST = SHAPE | {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2}
LENGTHS = (3.0, 8.0)  # of texts, in words: from 2**3 to 2**8, as often short as long
MODULES = ("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")


def measure(run: command.Run, folder: Path, budget: Budget) -> dict[str, Any]:
    try:
        import sentence_transformers as reference  # noqa: PLC0415 - not a dependency
    except ImportError:
        run.missing["sentence-transformers"] = "not installed: rankers and embeddings are not compared"
        return dict.fromkeys(FIGURES)
    shape = run.pick(SHAPE, SHAPE | {"num_hidden_layers": 2}, LEAST)
    num_texts, num_pairs, repeats = run.pick((256, 64, 3), (256, 64, 2), (4, 2, 1))
    texts = _texts(num_texts)
    pairs = [(texts[0], text) for text in texts[-num_pairs:]]
    device = str(run.options.device)

    embedder_path = _saved(folder / "embedder", transformers.BertModel, shape)
    embedder, tokenizer = _loaded(embedder_path, run)
    theirs = reference.SentenceTransformer(str(embedder_path), device=device)
    embed = alternate(
        budget.share(0.5), "embeddings", repeats,
        partial(_embedded, embedder, tokenizer, texts),
        partial(theirs.encode, texts, batch_size=32, show_progress_bar=False),
    )  # fmt: skip

    ranker_path = _saved(
        folder / "ranker", transformers.BertForSequenceClassification, shape | {"num_labels": 1}
    )
    ranker, tokenizer = _loaded(ranker_path, run)
    crossed = reference.CrossEncoder(str(ranker_path), device=device)
    rerank = alternate(
        budget.share(0.5), "rankings", repeats,
        partial(_ranked, ranker, tokenizer, pairs),
        partial(crossed.predict, pairs, show_progress_bar=False),
    )  # fmt: skip
    return {
        "embed_over_reference": round(embed[0] / embed[1], 3),
        "rerank_over_reference": round(rerank[0] / rerank[1], 3),
        "seconds": {"embed": embed, "rerank": rerank},
    }


def _texts(count: int) -> list[str]:
    generator = random.Random(3)  # noqa: S311 - lengths of texts
    lengths = [int(2 ** generator.uniform(*LENGTHS)) for _ in range(count)]
    return [" ".join(f"w{generator.randrange(WORDS)}" for _ in range(length)) for length in lengths]


def _saved(path: Path, model_class: Any, shape: dict[str, Any]) -> Path:
    torch.manual_seed(0)
    model_class(transformers.BertConfig(**shape)).save_pretrained(path)
    special = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
    words = [*special, *(f"w{number}" for number in range(WORDS))]
    tokenizer = Tokenizer(WordLevel({word: at for at, word in enumerate(words)}, unk_token=special[3]))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    names = dict(zip(("pad_token", "cls_token", "sep_token", "unk_token"), special, strict=True))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(path)
    if model_class is transformers.BertModel:
        listed = [
            {"idx": at, "name": str(at), "path": name, "type": f"sentence_transformers.models.{kind}"}
            for at, (name, kind) in enumerate(MODULES)
        ]
        (path / "modules.json").write_text(json.dumps(listed))
        (path / "1_Pooling").mkdir()
        pooling = {"pooling_mode_mean_tokens": True, "word_embedding_dimension": shape["hidden_size"]}
        (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return path


def _loaded(path: Path, run: command.Run) -> tuple[Embedder, Tokenizer]:
    checkpoint = read_checkpoint(path)
    modules = read_sentence_modules(checkpoint)
    assert modules
    options = LoadOptions(torch.float32, run.options.device, on_progress=lambda _: None)
    loaded = load_sentence_model(checkpoint, modules, options)
    return loaded, Tokenizer.from_file(str(path / "tokenizer.json"))


def _embedded(embedder: Embedder, tokenizer: Tokenizer, texts: list[str]) -> None:
    _run(embedder, [list(encoding.ids) for encoding in tokenizer.encode_batch_fast(texts)], [])


def _ranked(ranker: Embedder, tokenizer: Tokenizer, pairs: list[tuple[str, str]]) -> None:
    encoded = encode_pairs(tokenizer, pairs, None)
    _run(ranker, [pair.tokens for pair in encoded], [pair.second for pair in encoded])


def _run(model: Embedder, inputs: list[list[int]], seconds: list[int]) -> None:
    """Serve a request as the worker does."""
    scheduler = EmbeddingScheduler(
        "m",
        context=model.shape.context,
        vocab_size=model.vocab_size,
        limits=SchedulerLimits(),
        pads=model.pads,
    )
    assert scheduler.submit(Embed(1, "m", inputs, 0, seconds), 0.0) is None
    while (plan := scheduler.plan()) is not None:
        scheduler.apply(plan, model.run(plan), 0.1)
