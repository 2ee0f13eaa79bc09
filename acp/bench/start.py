"""The time from the start of the process to its answer to `initialize`, compared with Python's own.

    python bench/start.py [--runs 20]

It installs the package into a fresh environment, as a user would: an editable install is 30 ms slower. Each
case runs once to warm the file cache; then the cases take turns, so that the machine's load affects all.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
import venv
from pathlib import Path

PROJECT = Path(__file__).parent.parent
HELLO = (
    json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": 1}}) + "\n"
)


def answer_ms(argv: list[str], env: dict[str, str]) -> float:
    began = time.perf_counter()
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env
    ) as p:
        assert p.stdin is not None
        assert p.stdout is not None
        p.stdin.write(HELLO.encode())
        p.stdin.flush()
        line = p.stdout.readline()
        took = (time.perf_counter() - began) * 1000
        assert b"protocolVersion" in line, line
        p.stdin.close()
    return took


def run_ms(argv: list[str], env: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(argv, check=True, env=env, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - began) * 1000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        venv.create(root / "venv", with_pip=True)
        python = str(root / "venv" / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", str(PROJECT)], check=True)
        env = {"HOME": folder, "PATH": os.environ["PATH"]}
        cases = {
            "python, doing nothing": lambda: run_ms([python, "-c", "pass"], env),
            "python, import asyncio": lambda: run_ms([python, "-c", "import asyncio"], env),
            "python, import httpx": lambda: run_ms([python, "-c", "import httpx"], env),
            "helexa-acp, initialize answered": lambda: answer_ms([str(root / "venv/bin/helexa-acp")], env),
        }
        for case in cases.values():
            case()
        taken: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(runs):
            for name, case in cases.items():
                taken[name].append(case())
    print(f"{'':34} {'median':>8} {'best':>8} {'worst':>8}   ms, {runs} runs, load {os.getloadavg()[0]:.1f}")
    for name, values in taken.items():
        print(f"{name:34} {statistics.median(values):8.1f} {min(values):8.1f} {max(values):8.1f}")


if __name__ == "__main__":
    main()
