"""What benchmarks compare with: programs of the system, and packages in environments of their own.

An environment is made the first time it is asked for, under `bench/.venvs`, and again when the version that
is wanted changes. A peer that cannot be had is left out, with the reason in the result.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

VENVS = Path(__file__).with_name(".venvs")
PREPARE_S = 900.0


@dataclass(frozen=True, slots=True)
class Peer:
    """A program of the system, or the package `needs` (a pinned requirement). With `beside_ours` the package
    also sees those that the benchmark itself runs on: torch need not be installed twice. `options` are pip's.
    """

    name: str
    needs: str = ""
    beside_ours: bool = False
    options: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return VENVS / self.needs.partition("=")[0].replace("[", "-").rstrip("]")

    def program(self, name: str) -> str:
        """The path of a program in the peer's environment; `python` is its interpreter."""
        return str(self.folder / "bin" / name)

    def version(self) -> str:
        if self.needs:
            return self.needs.partition("==")[2]
        shown = subprocess.run([self.name, "-v"], capture_output=True, text=True, check=False, timeout=10)
        return (shown.stderr + shown.stdout).strip().rpartition("/")[2]

    def is_ready(self) -> bool:
        if not self.needs:
            return shutil.which(self.name) is not None
        ready = self.folder / "ready"
        return ready.is_file() and ready.read_text() == self.needs

    def prepare(self) -> str:
        """Make its environment. Returns why that failed, or an empty text."""
        if not self.needs:
            return f"{self.name} is not on PATH"
        try:
            self.install()
        except FileNotFoundError as error:
            return f"{self.needs} cannot be installed: {error.filename} is not on PATH"
        except subprocess.CalledProcessError as error:
            return f"{self.needs} cannot be installed: {error.stderr.strip().splitlines()[-1]}"
        except subprocess.TimeoutExpired:
            return f"{self.needs} was not installed within {PREPARE_S:g} s"
        (self.folder / "ready").write_text(self.needs)
        return ""

    def install(self) -> None:
        """Make the environment, with the package in it."""
        run_quietly([sys.executable, "-m", "venv", "--clear", str(self.folder)])
        if self.beside_ours:
            self._see_ours()
        pip = [self.program("python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run_quietly([*pip, *self.options, self.needs])

    def _see_ours(self) -> None:
        theirs = sysconfig.get_path("purelib", vars={"base": str(self.folder), "platbase": str(self.folder)})
        ours = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
        (Path(theirs) / "ours.pth").write_text("\n".join(ours) + "\n")


LITELLM = Peer("litellm", "litellm[proxy]==1.106.2")


def run_quietly(command: list[str]) -> None:
    """Run a step of an installation. Raises what `subprocess.run` does, with what it printed."""
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=PREPARE_S)
