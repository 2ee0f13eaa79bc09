"""One library on one vocabulary: python -m bench.guided.walk LIBRARY TOKENIZER ROUNDS

Started by `bench.guided` in the library's own environment. Prints one JSON object: for each schema how long
it takes to compile and, token by token along a document that fits it, how long a mask takes.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer

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
        """The seconds that the mask of each of `tokens` took."""


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


LIBRARIES = {"llguidance": llguidance, "xgrammar": xgrammar}


def measure(library: str, path: Path, rounds: int) -> dict[str, Any]:
    LIBRARIES[library](path)  # which imports the library
    started = time.perf_counter()
    compile_schema = LIBRARIES[library](path)
    figures: dict[str, Any] = {"tokenizer_ms": 1000 * (time.perf_counter() - started)}
    tokenizer = Tokenizer.from_file(str(path))
    for case, (schema, document) in CASES.items():
        tokens = tokenizer.encode(json.dumps(document), add_special_tokens=False).ids
        figures[case] = walked(compile_schema, json.dumps(schema), tokens, rounds)
    return figures


def walked(compile_schema: Compile, schema: str, tokens: list[int], rounds: int) -> dict[str, float]:
    compiles, masks = [], []
    for _ in range(rounds):
        started = time.perf_counter()
        walk = compile_schema(schema)
        compiles.append(time.perf_counter() - started)
        masks += walk(tokens)
    masks.sort()
    return {
        "tokens": len(tokens),
        "compile_ms": 1000 * statistics.median(compiles),
        "mask_p50_us": 1e6 * statistics.median(masks),
        "mask_p99_us": 1e6 * masks[int(0.99 * len(masks))],
        "mask_max_us": 1e6 * masks[-1],
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
