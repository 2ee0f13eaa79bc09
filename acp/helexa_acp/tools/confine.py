"""Runs a program that can do less than its user: the part of the sandbox that the kernel does without help.

    confine.py [--network] [--tmp DIR] [--write DIR]... -- PROGRAM [ARGUMENT]...
    confine.py --probe

With `--tmp` or `--write`, Landlock (Linux 6.2 and newer) lets it write below these directories only. A filter
of system calls refuses sockets to local services, which could do for it what it may not do itself. Without
`--network` it has a network namespace of its own, and where that cannot be made, no sockets at all.

It is a script of its own, without imports from the package, so that it starts fast in any environment. Its
code is 2 if the program cannot be confined. `--probe` prints what stays possible, a line for each.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import socket
import struct
import sys
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

SET_NO_NEW_PRIVS, SET_SECCOMP, MODE_FILTER = 38, 22, 2
NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000
SET_FLAGS, IS_UP = 0x8914, 0x41  # of a network interface

# Landlock: system calls, the same on every architecture, and rights
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
GET_VERSION, PATH_BENEATH = 1, 1
OLDEST, WITH_SCOPES = 3, 6  # versions; 3 is the first that covers truncation
WRITE_FILE, TRUNCATE = 1 << 1, 1 << 14
# To write, truncate, remove, make, rename and link. All else, such as reading, is not handled and so allowed.
ALL_WRITES = WRITE_FILE | TRUNCATE | sum(1 << bit for bit in range(4, 14))
SCOPES = 0b11  # abstract sockets of others, signals to others
DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts")
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - semaphores are there

# The filter, in the language of BPF: load a word, compare it, return a verdict
LOAD, IS_EQUAL, IS_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # offsets in what is known of a call
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
CALLS = {
    "x86_64": (0xC000003E, 41),
    "aarch64": (0xC00000B7, 198),
}  # id of the architecture, number of `socket`
IO_URING, OTHER_ABI = 425, 0x40000000  # a way around filters; another set of numbers

_libc = ctypes.CDLL(None, use_errno=True)


class Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


class Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def leave_network() -> bool:
    """Leave the network for an empty one. Return whether that is possible here."""
    uid, gid = os.getuid(), os.getgid()
    if _libc.unshare(NEW_USER | NEW_NETWORK) != 0:
        return False
    own = Path("/proc/self")  # in its user namespace, the program stays who it is
    (own / "setgroups").write_text("deny")
    (own / "uid_map").write_text(f"{uid} {uid} 1")
    (own / "gid_map").write_text(f"{gid} {gid} 1")
    with socket.socket() as loopback:  # which servers and tests need
        fcntl.ioctl(loopback, SET_FLAGS, struct.pack("16sH14x", b"lo", IS_UP))
    return True


def landlock_version() -> int:
    """Raises OSError if there is none, or one that is too old."""
    version = int(_libc.syscall(CREATE_RULESET, None, 0, GET_VERSION))
    if version < OLDEST:
        raise OSError(errno.ENOSYS, f"there is no Landlock of version {OLDEST}")
    return version


def restrict_writes(writable: list[str]) -> None:
    """Let this process write below these directories and to devices, for good. Raises OSError."""
    ruleset = Ruleset(ALL_WRITES, 0, SCOPES if landlock_version() >= WITH_SCOPES else 0)
    # Older kernels know a shorter structure, and accept a longer one whose end is zero.
    size = ctypes.sizeof(ruleset)
    fd = _checked(_libc.syscall(CREATE_RULESET, ctypes.byref(ruleset), size, 0), "create_ruleset")
    for path in (*writable, SHARED_MEMORY):
        _allow(fd, path, ALL_WRITES)
    for name in DEVICES:
        _allow(fd, f"/dev/{name}", WRITE_FILE | TRUNCATE)
    _checked(_libc.syscall(RESTRICT_SELF, fd, 0), "restrict_self")
    os.close(fd)


def _allow(ruleset: int, path: str, access: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # what is not there cannot be written either
        return
    rule = Beneath(access, fd)
    _checked(_libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(rule), 0), f"add_rule {path}")
    os.close(fd)


def refuse_sockets(*, all_of_them: bool) -> None:
    """Refuse this process local sockets, or all, for good; pairs of its own stay. Raises OSError."""
    if platform.machine() not in CALLS:
        raise OSError(errno.ENOSYS, f"system calls of {platform.machine()} are not known")
    architecture, socket_call = CALLS[platform.machine()]
    refuse = (RETURN, 0, 0, REFUSE)
    steps = [  # code, instructions to skip if it is so, if it is not, value
        (LOAD, 0, 0, ARCHITECTURE),
        *((IS_EQUAL, 1, 0, architecture), refuse),
        (LOAD, 0, 0, NUMBER),
        *((IS_AT_LEAST, 0, 1, OTHER_ABI), refuse),
        *((IS_EQUAL, 0, 1, IO_URING), refuse),
        *((IS_EQUAL, 1, 0, socket_call), (RETURN, 0, 0, ALLOW)),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        *(() if all_of_them else ((IS_EQUAL, 1, 0, socket.AF_UNIX), (RETURN, 0, 0, ALLOW))),
        refuse,
    ]
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    _checked(_libc.prctl(SET_SECCOMP, MODE_FILTER, ctypes.byref(Filter(len(steps), code))), "seccomp")


def confine(writable: list[str], *, network: bool) -> list[str]:
    """Confine this process for good, and return what stays possible. Raises OSError."""
    has_own_network = network or leave_network()
    _checked(_libc.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    left = []
    if writable:
        left.append("modes and times of other files can be changed")
        left += [] if landlock_version() >= WITH_SCOPES else ["other processes can be signalled"]
        restrict_writes(writable)
    refuse_sockets(all_of_them=not has_own_network)
    return left


def run(options: list[str], program: list[str]) -> NoReturn:
    values = list(pairwise([*options, ""]))
    for name, value in values:
        if name == "--tmp":
            os.environ["TMPDIR"] = value
    confine([v for name, v in values if name in {"--write", "--tmp"}], network="--network" in options)
    os.execvp(program[0], program)  # noqa: S606 - it is what this script is for


def main(argv: list[str]) -> None:
    if argv == ["--probe"]:
        sys.stdout.write("".join(f"{line}\n" for line in ["confined", *confine(["/nowhere"], network=False)]))
    else:
        split = argv.index("--")
        run(argv[:split], argv[split + 1 :])


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as failure:
        sys.stderr.write(f"confine: {failure}\n")
        raise SystemExit(2) from None
