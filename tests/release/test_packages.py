"""The .deb and the .rpm: what they hold, and the life of the .deb in a root of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cortex_site.processes.redis_server import newest_server
from tests.release.conftest import run, tool

IN_A_ROOT = Path(__file__).with_name("in_a_root.sh")
CONFIG = 1  # of an rpm's flags of files
# neuron's without torch, which would be most of it; NEURON_EXTRAS=neuron has the model answer as well.
PROGRAMS = {
    "cortex": ("cortex", "gateway,postgres"),
    "neuron": ("cortex-neuron", os.environ.get("NEURON_EXTRAS", "daemon")),
}


@pytest.fixture(scope="session")
def packages(wheel) -> Path:
    """The folder of all four."""
    for name in ("uv", "nfpm"):
        tool(name)
    source = wheel.parent / "source"
    run(sys.executable, "-m", "docs.generate", "build/site-source", "build/man", cwd=source)
    for program, (_, extras) in PROGRAMS.items():
        run("deploy/packages/build.sh", program, extras, wheel, cwd=source)
    return source / "dist"


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_deb_says_what_it_is(packages, program):
    name, _ = PROGRAMS[program]
    (deb,) = packages.glob(f"{name}_*.deb")
    told = run(tool("dpkg-deb"), "--info", deb)
    assert f" Package: {name}\n" in told
    assert "Depends: python3." in told
    conffiles = run(tool("dpkg-deb"), "--info", deb, "conffiles").split()
    assert f"/etc/{program}/{program}.toml" in conffiles


def headers(rpm: Path) -> dict[str, Any]:
    rpmfile = pytest.importorskip("rpmfile", reason="`make release` installs it")
    with rpmfile.open(rpm) as package:
        return dict(package.headers)


def texts(values: Sequence[bytes]) -> list[str]:
    return [value.decode() for value in values]


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_rpm_holds_the_same(packages, program):
    name, _ = PROGRAMS[program]
    (rpm,) = packages.glob(f"{name}-[0-9]*.rpm")
    (deb,) = packages.glob(f"{name}_*.deb")
    found = headers(rpm)
    folders, names = texts(found["dirnames"]), texts(found["basenames"])
    files = [f"{folders[index]}{base}" for index, base in zip(found["dirindexes"], names, strict=True)]
    in_deb = {line.split()[5].strip("./") for line in run(tool("dpkg-deb"), "-c", deb).splitlines()}
    assert {path.strip("/") for path in files} <= in_deb
    wanted = {
        f"/usr/lib/systemd/system/{program}.service",
        f"/usr/bin/{program}",
        f"/opt/{program}/pyvenv.cfg",
    }
    assert wanted | {f"/usr/share/man/man1/{program}.1.gz"} <= set(files)
    kept = {path for path, flags in zip(files, found["fileflags"], strict=True) if flags & CONFIG}
    assert f"/etc/{program}/{program}.toml" in kept
    assert b"try-restart" in found["postin"]
    needed = dict(zip(texts(found["requirename"]), texts(found["requireversion"]), strict=True))
    assert needed["python(abi)"].startswith("3.")


@pytest.mark.skipif(os.geteuid() != 0, reason="installing takes root")
@pytest.mark.parametrize("program", PROGRAMS)
def test_the_deb_is_installed_run_upgraded_removed_and_purged(packages, tmp_path, program):
    if shutil.which("dpkg") is None or not Path("/var/lib/dpkg/status").exists():
        pytest.skip("this is no Debian")
    for name in ("unshare", "ip", "setpriv", "curl"):
        tool(name)
    (deb,) = packages.glob(f"{PROGRAMS[program][0]}_*.deb")
    spaces = ("--mount", "--pid", "--net", "--fork", "--kill-child")
    told = subprocess.run(
        ["unshare", *spaces, "sh", IN_A_ROOT, tmp_path, deb, IN_A_ROOT.with_name(f"life_of_{program}.sh")],
        env=os.environ | {"VALKEY": newest_server().path},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    if "mount:" in told.stderr:
        pytest.skip(f"no mounts of its own here: {told.stderr}")
    assert told.stdout.splitlines()[-1:] == ["whole"], told.stdout + told.stderr
