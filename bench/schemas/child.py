"""Reads questions about schemas as lines of JSON and answers each with a line; started by `bench.schemas`."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from itertools import islice, permutations, product
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from neuron.text.json_schema.check import check_schema
from neuron.text.schema import grammar_source

MAX_BYTES = 2 << 30  # of address space
MAX_ORDERS = 120  # of an object's keys that are tried
MAX_SPELLINGS = 2000  # of an instance
END = 256


class _Bytes:
    """A vocabulary of the 256 bytes and an end, as llguidance asks for it."""

    eos_token_id = END
    bos_token_id = None
    special_token_ids = [END]
    tokens = [bytes([byte]) for byte in range(END)] + [b"<end>"]
    is_tokenizer_wrapper = True

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


BYTES = LLTokenizer(_Bytes())  # type: ignore[arg-type]


def judged(schema: dict[str, Any], instances: list[Any], *, is_strict: bool) -> dict[str, Any]:
    checked = check_schema(schema, is_strict=is_strict)
    if checked.problem is not None:
        return {"problem": f"{checked.pointer}: {checked.problem}", "admitted": []}
    if not instances:
        return {"problem": None, "admitted": []}
    matcher = LLMatcher(BYTES, "start: %json " + grammar_source(checked.schema), log_level=0)
    if matcher.is_error():
        return {"problem": matcher.get_error(), "admitted": []}
    return {"problem": None, "admitted": [is_admitted(matcher, instance) for instance in instances]}


def is_admitted(matcher: LLMatcher, instance: Any) -> bool:
    """Whether any spelling of the instance is a whole answer."""
    for text in islice(spellings(instance), MAX_SPELLINGS):
        encoded = list(text.encode("utf-8", "surrogatepass"))
        copy = matcher.deep_copy()
        if copy.try_consume_tokens(encoded) == len(encoded) and copy.is_accepting():
            return True
    return False


def spellings(value: Any) -> Iterator[str]:
    """The texts of a JSON value: its keys in any order, its whole numbers with and without a fraction."""
    if isinstance(value, dict):
        for names in islice(permutations(value), MAX_ORDERS):
            keys = [json.dumps(name, ensure_ascii=False) for name in names]
            for texts in product(*(list(islice(spellings(value[name]), MAX_ORDERS)) for name in names)):
                yield "{" + ",".join(f"{k}:{v}" for k, v in zip(keys, texts, strict=True)) + "}"
    elif isinstance(value, list):
        for texts in product(*(list(islice(spellings(item), MAX_ORDERS)) for item in value)):
            yield "[" + ",".join(texts) + "]"
    else:
        yield json.dumps(value, ensure_ascii=False)
        if isinstance(value, float) and value.is_integer():
            yield str(int(value))
        elif isinstance(value, int) and not isinstance(value, bool):
            yield f"{value}.0"


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    for line in sys.stdin:
        question = json.loads(line)
        verdict = judged(question["schema"], question["instances"], is_strict=question["is_strict"])
        print(json.dumps(verdict), flush=True)


if __name__ == "__main__":
    main()
