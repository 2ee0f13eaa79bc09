"""llama.cpp as a peer: npm's prebuilt library, driven through the PyPI binding in a process of its own.

The binding would build the library for 20 minutes; npm has it built, for every set of instructions.
"""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.peers import Peer, run_quietly

LIBRARY = "@node-llama-cpp/{system}-{machine}@3.22.1"  # llama.cpp 0.5.0
MACHINES = {"x86_64": "x64", "aarch64": "arm64"}  # npm's names of them


@dataclass(frozen=True, slots=True)
class Llama(Peer):
    """The binding, installed without the library, and the library from npm where the binding looks for it."""

    @property
    def libraries(self) -> Path:
        """The folder of llama.cpp's libraries."""
        (folder,) = self.folder.glob("node_modules/@node-llama-cpp/*/bins/*")
        return folder

    def install(self) -> None:
        Peer.install(self)
        machine = MACHINES.get(platform.machine(), platform.machine())
        package = LIBRARY.format(system=platform.system().lower(), machine=machine)
        run_quietly(["npm", "install", "--prefix", str(self.folder), "--ignore-scripts", package])
        for name in ("libllama", "libggml"):
            (file,) = self.libraries.glob(f"{name}.v*")
            (self.libraries / f"{name}.so").symlink_to(file.name)
        (binding,) = self.folder.glob("lib/python*/site-packages/llama_cpp")
        (binding / "lib").symlink_to(self.libraries)


LLAMA = Llama(
    "llama.cpp", "llama-cpp-python==0.3.36", options=("--config-settings=cmake.define.LLAMA_BUILD=OFF",)
)


class LlamaProcess:
    """llama.cpp with a GGUF file's model; `chosen` is the last token of each sequence."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.chosen: list[int] = []

    def start(self, prompts: Sequence[Sequence[int]]) -> float:
        """Run new prompts, and return the seconds until each has its first token."""
        return self._tell("start", prompts)

    def swap(self, prompt: Sequence[int]) -> float:
        """Return the seconds from a model that is loaded to the first token of the same, loaded anew."""
        return self._tell("swap", [prompt])

    def steps(self, count: int) -> float:
        """Return the seconds that so many decode steps of all sequences take."""
        return self._tell("steps", count)

    def _tell(self, command: str, argument: Any) -> float:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({command: argument}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or self._ended())
        self.chosen = answer["tokens"]
        seconds: float = answer["seconds"]
        return seconds

    def _ended(self) -> str:
        raise RuntimeError(f"llama.cpp ended with status {self._process.wait()}")


@contextmanager
def llama_process(file: Path, threads: int) -> Iterator[LlamaProcess]:
    """Run llama.cpp as long as the context lasts."""
    child = Path(__file__).with_name("llama_child.py")
    command = [LLAMA.program("python"), str(child), str(file), str(threads)]
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, stderr=nowhere) as process:
        yield LlamaProcess(process)
