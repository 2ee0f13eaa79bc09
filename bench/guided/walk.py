"""Guided decoding side by side: what compiling a schema and masking a token cost, per library.

    PYTHONPATH=where/it/is python -m bench.guided llguidance|xgrammar

Each library walks the same documents token by token, as sampling would: compute the mask, take the document's
next token. Vocabularies: helexa-tiny's, and one of 64 Ki tokens trained on Python's own source.
"""

from __future__ import annotations

import json
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TINY = Path("neuron/models/tiny/helexa-tiny/tokenizer.json")
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "role": {"enum": ["admin", "user", "guest"]},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
    },
    "required": ["name", "age", "role", "tags"],
    "additionalProperties": False,
}
WIDE = {
    "type": "object",
    "properties": {f"field_{i}": {"anyOf": [PERSON, {"type": "null"}]} for i in range(40)},
    "required": [f"field_{i}" for i in range(40)],
    "additionalProperties": False,
}
RECURSIVE = {
    "$defs": {"node": {
        "type": "object",
        "properties": {
            "value": {"type": "string"},
            "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
        },
        "required": ["value", "children"],
        "additionalProperties": False,
    }},
    "$ref": "#/$defs/node",
}  # fmt: skip
ANN = {
    "name": 'Ann Example of some length, with "quotes" in it',
    "age": 42,
    "role": "guest",
    "tags": ["a", "bc"],
}
LEAF = {"value": "a leaf with some text", "children": []}
CASES: dict[str, tuple[Any, Any]] = {
    "json_object": ({"type": "object"}, {"any": ["thing", 1.5, None, ANN]}),
    "person": (PERSON, ANN),
    "wide": (WIDE, {f"field_{i}": ANN if i % 2 else None for i in range(40)}),
    "recursive": (RECURSIVE, {"value": "root", "children": [LEAF, LEAF | {"children": [LEAF]}]}),
}


class Walk(Protocol):
    def __call__(self, tokens: list[int]) -> list[float]:
        """Seconds that the mask of each of `tokens` took."""


Compile = Callable[[str], Walk]


def llguidance(path: Path) -> Compile:
    from llguidance import LLMatcher, LLTokenizer  # noqa: PLC0415

    tokenizer = LLTokenizer(str(path))

    def compile_schema(schema: str) -> Walk:
        matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_json_schema(schema))
        assert not matcher.is_error(), matcher.get_error()
        return lambda tokens: _walk(tokens, matcher.compute_bitmask, matcher.consume_token)

    return compile_schema


def xgrammar(path: Path) -> Compile:
    import torch  # noqa: PLC0415
    import xgrammar as library  # noqa: PLC0415
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    fast = PreTrainedTokenizerFast(tokenizer_file=str(path))
    info = library.TokenizerInfo.from_huggingface(fast, stop_token_ids=[0])
    compiler = library.GrammarCompiler(info, cache_enabled=False)
    mask = torch.full((1, (info.vocab_size + 31) // 32), -1, dtype=torch.int32)

    def compile_schema(schema: str) -> Walk:
        matcher = library.GrammarMatcher(compiler.compile_json_schema(schema))
        return lambda tokens: _walk(
            tokens, lambda: matcher.fill_next_token_bitmask(mask), matcher.accept_token
        )

    return compile_schema


def _walk(tokens: list[int], compute_mask: Callable[[], Any], accept: Callable[[int], bool]) -> list[float]:
    seconds = []
    for token in tokens:
        started = time.perf_counter()
        compute_mask()
        seconds.append(time.perf_counter() - started)
        assert accept(token)
    return seconds


def python_vocabulary(path: Path, size: int = 65_536) -> Path:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("[a-z]*/[a-z]*.py"))
    texts = (source.read_text(encoding="utf-8", errors="ignore") for source in sources)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(path))
    return path


def measure(name: str, path: Path) -> dict[str, Any]:
    started = time.perf_counter()
    compile_schema = {"llguidance": llguidance, "xgrammar": xgrammar}[name](path)
    tokenizer = Tokenizer.from_file(str(path))
    figures: dict[str, Any] = {"vocabulary": tokenizer.get_vocab_size()}
    figures["tokenizer_ms"] = round(1000 * (time.perf_counter() - started), 1)
    for case, (schema, document) in CASES.items():
        text = json.dumps(schema)
        tokens = tokenizer.encode(json.dumps(document), add_special_tokens=False).ids
        compiles, masks = [], []
        for _ in range(5):
            started = time.perf_counter()
            walk = compile_schema(text)
            compiles.append(time.perf_counter() - started)
            masks += walk(tokens)
        masks.sort()
        figures[case] = {
            "tokens": len(tokens),
            "compile_ms": round(1000 * statistics.median(compiles), 2),
            "mask_p50_us": round(1e6 * statistics.median(masks), 1),
            "mask_p99_us": round(1e6 * masks[int(0.99 * len(masks))], 1),
            "mask_max_us": round(1e6 * masks[-1], 1),
        }
    return figures


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else "build")
    folder.mkdir(parents=True, exist_ok=True)
    large = folder / "vocabulary-64k.json"
    for path in (TINY, large if large.exists() else python_vocabulary(large)):
        print(json.dumps({"library": name} | measure(name, path)))


if __name__ == "__main__":
    main()
