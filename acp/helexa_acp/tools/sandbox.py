"""The sandbox of shell commands: bubblewrap where it works, else Landlock, else none.

What it guarantees is told in the picker of modes and in each request for permission. Nothing else is claimed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Protocol

PROBE_TIMEOUT_S = 5.0
NONE_WORKS = "neither bubblewrap nor Landlock works on this machine"
CONFINE = (sys.executable, "-I", "-S", str(Path(__file__).with_name("confine.py")))


class CommandAccess(StrEnum):
    """What a command gets beside what every sandboxed command does."""

    CONFINED = "confined"
    NETWORK = "network"
    ALL = "all"  # no sandbox


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a command may use: directories to write below, one for temporary files, perhaps the network."""

    writable: tuple[str, ...]
    tmp: str
    network: bool = False


class CommandSandbox(Protocol):
    """A way to confine a command."""

    @property
    def name(self) -> str: ...

    def wrap(self, argv: list[str], cwd: str, bounds: Bounds) -> list[str]:
        """Return the words that run a program within these bounds."""

    @property
    def also(self) -> tuple[str, ...]:
        """What a confined command can do besides, for the user."""


@dataclass(frozen=True, slots=True)
class Bubblewrap:
    """Mounts all else read-only, and hides other processes."""

    program: str
    name: str = "bubblewrap"
    also: tuple[str, ...] = ()

    def wrap(self, argv: list[str], cwd: str, bounds: Bounds) -> list[str]:
        words = [self.program, "--die-with-parent", "--new-session"]
        words += ["--unshare-user-try", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
        words += [] if bounds.network else ["--unshare-net"]
        words += ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
        words += ["--bind", bounds.tmp, "/tmp", "--setenv", "TMPDIR", "/tmp"]  # noqa: S108 - of its own
        for folder in bounds.writable:
            words += ["--bind-try", folder, folder]
        # Its network is settled. What is left to refuse are sockets to local services.
        return [*words, "--chdir", cwd, "--", *CONFINE, "--network", "--", *argv]


@dataclass(frozen=True, slots=True)
class Landlock:
    """Needs nothing but the kernel, which leaves some things possible."""

    also: tuple[str, ...]
    name: str = "Landlock"

    def wrap(self, argv: list[str], cwd: str, bounds: Bounds) -> list[str]:
        words = [*CONFINE, "--tmp", bounds.tmp, *(["--network"] if bounds.network else [])]
        for folder in bounds.writable:
            words += ["--write", folder]
        return [*words, "--", *argv]


@cache
def find_sandbox(use: tuple[str, ...]) -> CommandSandbox | None:
    """Return the sandbox that works here, of those to use. They are tried once, which takes a moment."""
    program = shutil.which("bwrap") if "bubblewrap" in use else None
    if program is not None:
        found = Bubblewrap(program)
        with tempfile.TemporaryDirectory() as tmp:
            if _output(found.wrap(["echo", "works"], "/", Bounds((), tmp))) == "works":
                return found
    if "landlock" not in use:
        return None
    match _output([*CONFINE, "--probe"]).splitlines():
        case ["confined", *also]:
            return Landlock(tuple(also))
    return None


def _output(argv: list[str]) -> str:
    """Return what a program prints, nothing if it fails."""
    try:
        ran = subprocess.run(argv, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return ran.stdout.strip() if ran.returncode == 0 else ""


class Confinement:
    """How one session confines its commands: its directories, and a temporary one that ends with it."""

    def __init__(self, sandbox: CommandSandbox | None, writable: Iterable[str], *, network: bool) -> None:
        self.sandbox = sandbox
        self._writable = tuple(map(os.path.realpath, writable))
        self._network = network  # for all commands
        self._tmp: str | None = None

    @property
    def is_tight(self) -> bool:
        """Whether a confined command can do nothing that a user would be asked about."""
        return self.sandbox is not None and not self._network

    def wrap(self, argv: list[str], cwd: str, access: CommandAccess) -> list[str]:
        """Return the words that run a program with this access."""
        if self.sandbox is None or access is CommandAccess.ALL:
            return argv
        if self._tmp is None:
            self._tmp = tempfile.mkdtemp(prefix="helexa-acp-")
        network = self._network or access is CommandAccess.NETWORK
        return self.sandbox.wrap(argv, cwd, Bounds(self._writable, self._tmp, network))

    def guarantee(self, access: CommandAccess) -> str:
        """Return what a command with this access can do, for the user."""
        if self.sandbox is None:
            return f"Runs without a sandbox: {NONE_WORKS}."
        if access is CommandAccess.ALL:
            return "Runs outside the sandbox: it can write wherever you can, and use the network."
        network = self._network or access is CommandAccess.NETWORK
        also = "".join(f" Beside that, {able}." for able in self.sandbox.also)
        return (
            f"Runs in a sandbox ({self.sandbox.name}): it can write files only below "
            f"{', '.join(self._writable)} and in a temporary directory, "
            f"{'it has the network' if network else 'it has no network'}, and it reaches no local services. "
            f"It can read what you can.{also}"
        )

    def remove_tmp(self) -> None:
        if self._tmp is not None:
            shutil.rmtree(self._tmp, ignore_errors=True)
