"""Runs a program that can write only below some directories, by Landlock (Linux 6.2 and newer).

    landlock.py [--network] [--tmp DIR] [--write DIR]... -- PROGRAM [ARGUMENT]...
    landlock.py --probe

It is a script of its own, without imports from the package, so that it starts fast in any environment.
Without `--network` the program gets an empty network namespace; where there are none, Landlock refuses TCP,
and UDP stays. `--probe` prints which of both it is: off or tcp. It ends with code 2 if the program cannot be
restricted.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import sys
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # system calls, on every architecture
GET_VERSION = 1
PATH_BENEATH = 1
SET_NO_NEW_PRIVS = 38
NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000
OLDEST, WITH_TCP, WITH_SCOPES = 3, 4, 6  # versions; 3 is the first that covers truncation

WRITE_FILE, TRUNCATE = 1 << 1, 1 << 14
# To write, truncate, remove, make, rename and link. All else, such as reading, is not handled and so allowed.
ALL_WRITES = WRITE_FILE | TRUNCATE | sum(1 << bit for bit in range(4, 14))
TCP = 0b11  # bind and connect
SCOPES = 0b11  # abstract sockets of others, signals to others
SET_FLAGS, IS_UP = 0x8914, 0x41  # of a network interface
DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts")

_libc = ctypes.CDLL(None, use_errno=True)


class Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _version() -> int:
    version = _libc.syscall(CREATE_RULESET, None, 0, GET_VERSION)
    if version < OLDEST:
        raise OSError(errno.ENOSYS, f"Landlock is not there in version {OLDEST}")
    return int(version)


def restrict(writable: list[str], *, network: bool) -> str:
    """Restrict this process for good. Return what is left of the network: all, off or tcp. Raises OSError."""
    version = _version()
    left = "all" if network else _leave_network(version)
    net, scopes = TCP if left == "tcp" else 0, SCOPES if version >= WITH_SCOPES else 0
    ruleset = Ruleset(ALL_WRITES, net, scopes)
    # Older kernels know a shorter structure, and accept a longer one whose end is zero.
    fd = _checked(
        _libc.syscall(CREATE_RULESET, ctypes.byref(ruleset), ctypes.sizeof(ruleset), 0), "create_ruleset"
    )
    for path in writable:
        _allow(fd, path, ALL_WRITES)
    for name in DEVICES:
        _allow(fd, f"/dev/{name}", WRITE_FILE | TRUNCATE)
    _checked(_libc.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    _checked(_libc.syscall(RESTRICT_SELF, fd, 0), "restrict_self")
    os.close(fd)
    return left


def _leave_network(version: int) -> str:
    uid, gid = os.getuid(), os.getgid()
    if _libc.unshare(NEW_USER | NEW_NETWORK) == 0:
        # In its user namespace, it stays who it is.
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            Path(f"/proc/self/{name}").write_text(text)
        with socket.socket() as loopback:  # a network of its own, for servers and tests
            fcntl.ioctl(loopback, SET_FLAGS, struct.pack("16sH14x", b"lo", IS_UP))
        return "off"
    if version < WITH_TCP:
        raise OSError(errno.ENOSYS, "neither network namespaces nor Landlock can withhold the network")
    return "tcp"


def _allow(ruleset: int, path: str, access: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # what is not there cannot be written either
        return
    rule = Beneath(access, fd)
    _checked(_libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(rule), 0), f"add_rule {path}")
    os.close(fd)


def probe() -> None:
    sys.stdout.write(restrict([], network=False))


def run(options: list[str], program: list[str]) -> NoReturn:
    values = list(pairwise([*options, ""]))
    for name, value in values:
        if name == "--tmp":
            os.environ["TMPDIR"] = value
    restrict([v for name, v in values if name in {"--write", "--tmp"}], network="--network" in options)
    os.execvp(program[0], program)  # noqa: S606 - it is what this script is for


def main(argv: list[str]) -> None:
    if argv == ["--probe"]:
        probe()
    else:
        split = argv.index("--")
        run(argv[:split], argv[split + 1 :])


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as failure:
        sys.stderr.write(f"landlock: {failure}\n")
        raise SystemExit(2) from None
