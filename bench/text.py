"""What text costs on both sides of the engine: python -m bench.text

    template_us         microseconds a message to render helexa-tiny's chat template, by messages in the chat
    tool_us_per_token   microseconds a token that a notation's parser takes, text before a call and the call's
                        arguments alike, by notation
    slowest_tool_us     the largest of them
    tokenize_mib_s      MiB of text a second that helexa-tiny's tokenizer takes

Times are the best of several rounds. What is parsed is drawn from the notation's own grammar.

Options and the other keys of the result are those of `bench.command`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from bench import command
from neuron.models.tiny import WEIGHTS_DIR
from neuron.text.detokenizer import Detokenizer
from neuron.text.directory import read_model_text
from neuron.text.grammar import GrammarBuilder
from neuron.text.model_text import ModelText
from neuron.text.notations.known import NOTATIONS
from neuron.text.notations.notation import Notation
from neuron.text.schema import Schema

TEXT = 'The scheduler asks for pages; where none is free, the youngest request waits: "later", it says.\n'
SEED = 20
MAX_SAMPLE_TOKENS = 20_000
MIB = 1 << 20


def schema_of(text: str) -> Schema:
    """Arguments that hold `text` and little else."""
    properties = {
        "text": {"type": "string", "enum": [text]},
        "count": {"type": "integer", "minimum": 1, "maximum": 9},
    }
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }


def best_s(work: Callable[[], object], rounds: int) -> float:
    """The seconds that `work` takes at best."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def sample(notation: Notation, text: ModelText, guide: LLTokenizer, schema: Schema) -> str:
    """A call of the tool "note", as the notation's grammar allows it."""
    added = {token.content: id_ for id_, token in text.tokenizer.get_added_tokens_decoder().items()}
    grammar = GrammarBuilder(added)
    call = notation.enclose(grammar, notation.call(grammar, "note", schema))
    matcher = LLMatcher(guide, grammar.text(call))
    draw = random.Random(SEED)  # noqa: S311
    said: list[int] = []
    while not matcher.is_stopped() and len(said) < MAX_SAMPLE_TOKENS:
        bits = matcher.compute_bitmask()
        token = draw.choice([i for i in range(guide.vocab_size) if bits[i // 8] >> i % 8 & 1])
        if not matcher.consume_token(token):
            break
        said.append(token)
    return text.decode([token for token in said if token not in text.eos_ids])


def pieces_of(text: ModelText, said: str) -> list[str]:
    """What each token of `said` adds to it."""
    detokenizer = Detokenizer(text.tokenizer)
    return [detokenizer.feed(token) for token in text.encode(said)]


def parse(notation: Notation, pieces: Sequence[str], schema: Schema) -> None:
    parser = notation.parser(notation.call_id, {"note": schema})
    feed = parser.feed
    for piece in pieces:
        feed(piece)
    parser.finish()
    assert parser.num_closed == 1, notation.name


def measure(run: command.Run) -> dict[str, Any]:
    text = read_model_text(WEIGHTS_DIR)
    rounds = run.pick(20, 10, 2)
    tools = tool_us(run, text, rounds)
    return {
        "template_us": {
            str(size): template_us(text, size, rounds) for size in run.pick((2, 20, 200), (2, 20), (2,))
        },
        "tool_us_per_token": tools,
        "slowest_tool_us": max(tools.values()),
        "tokenize_mib_s": tokenize_mib_s(text, run.pick(MIB, MIB, MIB // 16), run.pick(5, 3, 1)),
    }


def template_us(text: ModelText, size: int, rounds: int) -> float:
    template = text.template
    assert template
    roles = ("user", "assistant")
    messages = [{"role": roles[at % 2], "content": TEXT} for at in range(size)]
    return best_s(lambda: template.render(messages), rounds) / size * 1e6


def tool_us(run: command.Run, text: ModelText, rounds: int) -> dict[str, float]:
    guide = LLTokenizer((WEIGHTS_DIR / "tokenizer.json").read_text(), eos_token=text.eos_ids[0])
    schema = schema_of(TEXT * run.pick(20, 10, 2))
    found = {}
    for name, notation in NOTATIONS.items():
        before = "" if notation.splits_reasoning else f"{TEXT * 2}\n"
        said = before + sample(notation, text, guide, schema)
        pieces = pieces_of(text, said)
        found[name] = best_s(lambda n=notation, p=pieces: parse(n, p, schema), rounds) / len(pieces) * 1e6
        run.say(f"{name}: {found[name]:.2f} us a token, of {len(pieces)} tokens")
    return found


def tokenize_mib_s(text: ModelText, size: int, rounds: int) -> float:
    words = (TEXT * (size // len(TEXT) + 1))[:size]
    return size / MIB / best_s(lambda: text.encode(words), rounds)


if __name__ == "__main__":
    command.run("text", __doc__, measure, full_s=120)
