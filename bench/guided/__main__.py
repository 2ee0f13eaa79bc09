"""Guided decoding side by side, what a schema and a mask cost with each library: python -m bench.guided

Both libraries walk the same documents token by token, as sampling would: compute the mask, take the
document's next token. The vocabularies are helexa-tiny's and one of 64 Ki tokens, trained on Python's own
sources.

    runs                    `runs[library][vocabulary][schema]`: compile_ms, mask_p50_us, mask_p99_us,
                            mask_max_us; and tokenizer_ms, once a vocabulary
    checks                  `checks[vocabulary][schema]`: a new schema's schema_ms and grammar_ms in the
                            sandbox, known_ms when it was checked before, worker_ms for compiling it once
                            more; start_ms of a process, with its first check
    compile_over_xgrammar   time to compile, the median over the schemas at the largest vocabulary
    mask_over_xgrammar      the same of a mask's p99

Options and the other keys of the result are those of `bench.command`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from bench import command
from bench.figures import median, ratio
from bench.guided.checks import measured
from bench.guided.walk import CASES
from bench.peers import Peer
from bench.processes import clean_environment
from neuron.models.tiny import WEIGHTS_DIR

ROOT = Path(__file__).parents[2]
LARGE = ROOT / "build" / "vocabulary-64k.json"
LARGE_TOKENS = 65_536
WALK_S = 120.0
XGRAMMAR = Peer("xgrammar", "xgrammar==0.2.8", beside_ours=True)


def measure(run: command.Run) -> dict[str, Any]:
    pythons = {"llguidance": sys.executable} | {peer.name: peer.program("python") for peer in run.peers}
    runs: dict[str, dict[str, Any]] = {library: {} for library in pythons}
    checks: dict[str, Any] = {}
    for name, path in vocabularies(run).items():
        for library, python in pythons.items():
            if run.budget.allows(f"{library} on {name}"):
                runs[library][name] = walked(run, python, library, path)
                run.say(f"{library} on {name}: {json.dumps(runs[library][name])}")
        if run.budget.allows(f"checks on {name}"):
            vocab_size = Tokenizer.from_file(str(path)).get_vocab_size()
            checks[name] = measured(path, vocab_size, int(run.pick("25", "25", "3")))
            run.say(f"checks on {name}: {json.dumps(checks[name])}")
    return {"runs": runs, "checks": checks, **over_xgrammar(runs)}


def vocabularies(run: command.Run) -> dict[str, Path]:
    """The tokenizer files by name, the largest last."""
    found = {"helexa-tiny": WEIGHTS_DIR / "tokenizer.json"}
    if run.size is not command.Size.SMOKE:
        if not LARGE.exists():
            run.say(f"training a vocabulary of {LARGE_TOKENS} tokens …")
            train(LARGE)
        found["64k"] = LARGE
    return found


def train(path: Path) -> None:
    """Write a byte-level tokenizer, trained on the standard library's sources, to `path`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=LARGE_TOKENS, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("[a-z]*/[a-z]*.py"))
    texts = (source.read_text(encoding="utf-8", errors="ignore") for source in sources)
    tokenizer.train_from_iterator(texts, trainer)
    path.parent.mkdir(exist_ok=True)
    tokenizer.save(str(path))


def walked(run: command.Run, python: str, library: str, path: Path) -> Any:
    rounds = run.pick("5", "5", "1")
    done = subprocess.run(
        [python, "-m", "bench.guided.walk", library, str(path), rounds],
        env=clean_environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        check=True,
        timeout=WALK_S,
    )
    return json.loads(done.stdout.splitlines()[-1])


def over_xgrammar(runs: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    both = [name for name in runs["llguidance"] if name in runs.get("xgrammar", {})]

    def over(key: str) -> float | None:
        if not both:
            return None
        ours, theirs = (runs[library][both[-1]] for library in ("llguidance", "xgrammar"))
        return median(ratio(ours[case][key], theirs[case][key]) for case in CASES)

    return {"compile_over_xgrammar": over("compile_ms"), "mask_over_xgrammar": over("mask_p99_us")}


if __name__ == "__main__":
    command.run("guided", __doc__, measure, peers=[XGRAMMAR])
