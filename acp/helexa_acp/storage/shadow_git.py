"""States of a project's files, kept in a git repository that lies outside the project.

The project's own repository, if it has one, is not read or changed. What the project's `.gitignore` names is
left out, as are long files and repositories inside the project. Files are kept byte for byte: neither the
attributes of the project nor the configuration of the user apply. All methods block.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterable
from pathlib import Path

TIMEOUT_S = 20.0
MAX_FILE_BYTES = 10 * 1024 * 1024
MAX_CHANGED_FILES = 20_000
SETTINGS = ("core.hooksPath=/dev/null", "core.fsmonitor=false", "core.autocrlf=false", "gc.autoDetach=false")
EXCLUDED = "node_modules/\n__pycache__/\n.venv/\n.mypy_cache/\n.ruff_cache/\n.pytest_cache/\n"
ATTRIBUTES = "* -text -ident -filter -working-tree-encoding\n"  # takes precedence over all other files


CLOSED = "the session is closed"


class ShadowGitError(Exception):
    """The state could not be kept or restored. The message is for the user."""


class ShadowGit:
    """The states that one session keeps of the files below `work_tree`. Sessions share the repository."""

    def __init__(self, repository: Path, work_tree: str, session_id: str) -> None:
        self._repository = repository
        self._work_tree = work_tree
        self._index = repository / f"index-{session_id}"
        self._refs = f"refs/sessions/{session_id}"
        self._process: subprocess.Popen[bytes] | None = None
        self._aborted = threading.Event()
        self._busy = threading.RLock()  # a thread that nobody waits for any more may still be saving

    def save(self, name: str) -> str:
        """Keep the files as they are, and return the id of the state. Raises ShadowGitError."""
        with self._busy:
            return self._save(name)

    def _save(self, name: str) -> str:
        self._check_place()
        if self._aborted.is_set():
            raise ShadowGitError(CLOSED)
        if not (self._repository / "HEAD").exists():
            self._create()
        self._update_index()
        tree = self._git("write-tree").decode().strip()
        commit = self._git("commit-tree", tree, "-m", name).decode().strip()
        self._git("update-ref", f"{self._refs}/{commit}", commit)
        return commit

    def restore(self, commit: str) -> tuple[str, list[str]]:
        """Make the files what they were. Return the state of before, and the paths that have changed.

        Raises ShadowGitError. Files that git does not look at stay as they are.
        """
        with self._busy:
            now = self._save("before a rewind")
            with contextlib.suppress(ShadowGitError):  # it fails for what a process changes meanwhile
                self._git("update-index", "-q", "--refresh")
            changed = self._git("diff-tree", "-r", "-z", "--name-only", now, commit)
            self._git("read-tree", "-m", "-u", now, commit)
        return now, [os.fsdecode(path) for path in changed.split(b"\0") if path]

    def keep(self, commits: Iterable[str]) -> None:
        """Keep states of another session, which may be deleted. Raises ShadowGitError."""
        for commit in commits:
            self._git("update-ref", f"{self._refs}/{commit}", commit)

    def forget(self) -> None:
        """Give up the session's states."""
        if not (self._repository / "HEAD").exists():
            return
        self._index.unlink(missing_ok=True)
        with contextlib.suppress(ShadowGitError):
            refs = self._git("for-each-ref", "--format=delete %(refname)", self._refs)
            self._git("update-ref", "--stdin", stdin=refs)
            self._git("gc", "--auto", "--quiet")

    def abort(self) -> None:
        """End the git process that is running in another thread, and start none any more."""
        self._aborted.set()
        self._kill()
        with self._busy:  # so that nothing runs when this returns
            pass

    def _kill(self) -> None:
        process = self._process
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def _check_place(self) -> None:
        if Path(os.environ.get("HOME") or "/").is_relative_to(self._work_tree):
            raise ShadowGitError(f"{self._work_tree} is too large a directory to keep states of")
        if shutil.which("git") is None:
            raise ShadowGitError("git is not installed")

    def _create(self) -> None:
        self._repository.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._git("init", "--quiet", "--template=")
        (self._repository / "info").mkdir(exist_ok=True)
        (self._repository / "info" / "exclude").write_text(EXCLUDED)
        (self._repository / "info" / "attributes").write_text(ATTRIBUTES)

    def _update_index(self) -> None:
        listed = self._git("ls-files", "-z", "--others", "--modified", "--exclude-standard")
        paths = {path for path in listed.split(b"\0") if path and not path.endswith(b"/")}
        if len(paths) > MAX_CHANGED_FILES:
            raise ShadowGitError(f"{len(paths)} files have changed, which is too many to keep states of")
        long = {path for path in paths if self._is_long(path)}
        self._git("update-index", "-z", "--add", "--remove", "--stdin", stdin=_lines(paths - long))
        self._git("update-index", "-z", "--force-remove", "--stdin", stdin=_lines(long))

    def _is_long(self, path: bytes) -> bool:
        try:
            return (Path(self._work_tree) / os.fsdecode(path)).lstat().st_size > MAX_FILE_BYTES
        except OSError:
            return False

    def _git(self, *args: str, stdin: bytes = b"") -> bytes:
        if self._aborted.is_set():
            raise ShadowGitError(CLOSED)
        command = ["git", *(word for setting in SETTINGS for word in ("-c", setting)), *args]
        try:
            process = self._process = subprocess.Popen(
                command,
                cwd=self._work_tree,
                env=self._environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            if self._aborted.is_set():  # since it was looked at above
                self._kill()
            with process:
                return self._output(process, args[0], stdin)
        except OSError as error:
            raise ShadowGitError(f"git cannot run: {error}") from error
        finally:
            self._process = None

    def _output(self, process: subprocess.Popen[bytes], verb: str, stdin: bytes) -> bytes:
        try:
            out, err = process.communicate(stdin, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._kill()
            raise ShadowGitError(f"git {verb} took more than {TIMEOUT_S:.0f} s") from None
        if process.returncode:
            words = err.decode("utf-8", "replace").strip()[-500:]
            raise ShadowGitError(f"git {verb} failed: {words}")
        return out

    def _environment(self) -> dict[str, str]:
        own = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        who = {"NAME": "helexa-acp", "EMAIL": "helexa-acp@localhost"}
        return {
            **own,
            **{f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()},
            "GIT_DIR": str(self._repository),
            "GIT_WORK_TREE": self._work_tree,
            "GIT_INDEX_FILE": str(self._index),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_OPTIONAL_LOCKS": "0",
            "LC_ALL": "C",
        }


def _lines(paths: set[bytes]) -> bytes:
    return b"".join(path + b"\0" for path in sorted(paths))
