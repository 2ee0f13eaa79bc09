"""llama.cpp in an environment of its own, told line by line what to run: llama_child.py FILE THREADS

Commands come to stdin, answers go to stdout, each one JSON object a line; it sleeps in between:

    {"start": [[token, …], …]}  forget all, run each prompt as a sequence and choose a token after it
    {"steps": N}                N times: append what was chosen, in one batch, and choose again
    {"swap": [[token, …]]}      drop the model, load it again, and run a prompt

An answer has `seconds` and `tokens`, those that were chosen last. It is always the likeliest.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CONTEXT, SEQUENCES = 1024, 16


class Library(ctypes.CDLL):
    """The binding is a few commits newer than the library and names functions that nobody calls here."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return super().__getattr__("llama_batch_free")


ctypes.CDLL = Library  # type: ignore[misc]

import numpy as np  # noqa: E402
from llama_cpp import _ggml, llama_cpp  # noqa: E402


class Model:
    """The model of a GGUF file. All but threads and sizes is llama.cpp's own choice."""

    def __init__(self, file: str, threads: int) -> None:
        folder = Path(llama_cpp.__file__).with_name("lib")
        _ggml.libggml.ggml_backend_load_all_from_path(ctypes.c_char_p(bytes(folder)))
        self._file, self._threads = file, threads
        self._batch = llama_cpp.llama_batch_init(CONTEXT * SEQUENCES, 0, 1)
        self._lengths: list[int] = []
        self._chosen: list[int] = []
        self._load((1, SEQUENCES))

    def _load(self, counts: Sequence[int]) -> None:
        params = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(self._file.encode(), params)
        assert self._model, f"{self._file} cannot be loaded"
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self._contexts = {count: self._context(count) for count in counts}

    def _context(self, sequences: int) -> Any:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max = CONTEXT * sequences, sequences
        params.n_threads = params.n_threads_batch = self._threads
        context = llama_cpp.llama_init_from_model(self._model, params)
        assert context, f"no context of {sequences} sequences"
        return context

    def swap(self, prompts: Sequence[Sequence[int]]) -> None:
        for context in self._contexts.values():
            llama_cpp.llama_free(context)
        llama_cpp.llama_model_free(self._model)
        self._load((1,))
        self.start(prompts)

    def start(self, prompts: Sequence[Sequence[int]]) -> None:
        self._lengths = [0] * len(prompts)
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._current), False)
        self._append(prompts)

    def steps(self, count: int) -> None:
        for _ in range(count):
            self._append([[token] for token in self._chosen])

    @property
    def chosen(self) -> list[int]:
        return self._chosen

    @property
    def _current(self) -> Any:
        return self._contexts[min(count for count in self._contexts if count >= len(self._lengths))]

    def _append(self, parts: Sequence[Sequence[int]]) -> None:
        """Append a part to each sequence and choose the likeliest token after it."""
        batch, count = self._batch, 0
        for sequence, part in enumerate(parts):
            for token in part:
                batch.token[count], batch.pos[count] = token, self._lengths[sequence]
                batch.n_seq_id[count], batch.seq_id[count][0] = 1, sequence
                batch.logits[count] = 0
                self._lengths[sequence] += 1
                count += 1
            batch.logits[count - 1] = 1
        batch.n_tokens = count
        assert llama_cpp.llama_decode(self._current, batch) == 0
        logits = llama_cpp.llama_get_logits(self._current)
        rows = np.ctypeslib.as_array(logits, (len(parts), self._vocab_size))
        self._chosen = rows.argmax(1).tolist()


def main() -> None:
    quiet = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(quiet, None)
    model = Model(sys.argv[1], int(sys.argv[2]))
    for line in sys.stdin:
        ((command, argument),) = json.loads(line).items()
        started = time.perf_counter()
        getattr(model, command)(argument)
        seconds = time.perf_counter() - started
        print(json.dumps({"seconds": seconds, "tokens": model.chosen}), flush=True)


if __name__ == "__main__":
    main()
