"""A language server for tests, which finds the word BAD. It writes each message that it gets to a file.

    lsp_server.py LOG [pull | push | unversioned | sparing | hang-at-start | hang | late | die | nonsense | stubborn]

`sparing` publishes only what differs from before. `late` answers once the file LOG.go exists. `stubborn` ignores the end of its input and SIGTERM, and has a child.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

LOG, MODE = Path(sys.argv[1]), sys.argv[2]


def read():
    length = 0
    while line := sys.stdin.buffer.readline().strip():
        if line.lower().startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    return json.loads(sys.stdin.buffer.read(length)) if length else None


def write(**message):
    body = json.dumps({"jsonrpc": "2.0", **message}).encode()
    sys.stdout.buffer.write(b"Content-Length: %d\r\nContent-Type: x\r\n\r\n%b" % (len(body), body))
    sys.stdout.buffer.flush()


def note(entry):
    with LOG.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def problems(text):
    return [
        {
            "range": {"start": {"line": i, "character": line.index("BAD")}, "end": {}},
            "message": "it is BAD",
            "code": 7,
        }
        for i, line in enumerate(text.split("\n"))
        if "BAD" in line
    ]


def publish(uri, version, text):
    about = {} if MODE == "unversioned" else {"version": version}
    if MODE == "unversioned":  # of one analysis, then of all
        write(method="textDocument/publishDiagnostics", params={"uri": uri, "diagnostics": []})
    write(
        method="textDocument/publishDiagnostics",
        params={"uri": uri, "diagnostics": problems(text), **about},
    )


def begin():
    child = None
    if MODE == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "600"])
    note({"pid": os.getpid(), "child": child.pid if child else 0, "env": dict(os.environ)})


TEXTS: dict[str, str] = {}
PUBLISHED: dict[str, list] = {}


def take_text(document, text):
    if MODE == "nonsense":
        sys.stdout.write("Hello!\r\n\r\n")
        sys.stdout.flush()
    if MODE == "die":
        sys.exit(3)
    while MODE == "late" and not Path(f"{LOG}.go").exists():
        time.sleep(0.01)
    TEXTS[document["uri"]] = text
    if MODE == "sparing" and PUBLISHED.get(document["uri"]) == problems(text):
        return
    PUBLISHED[document["uri"]] = problems(text)
    if MODE in {"push", "unversioned", "sparing", "late", "stubborn"}:
        publish(document["uri"], document["version"], text)


def take(message):
    params = message.get("params") or {}
    match message.get("method"):
        case "initialize":
            while MODE == "hang-at-start":
                time.sleep(60)
            provider = {"diagnosticProvider": {}} if MODE == "pull" else {}
            write(id=message["id"], result={"capabilities": provider})
        case "initialized":
            write(id="c", method="workspace/configuration", params={"items": [{"section": "s"}, {}]})
            write(id=9, method="workspace/unheard", params={})
        case "textDocument/didOpen":
            take_text(params["textDocument"], params["textDocument"]["text"])
        case "textDocument/didChange":
            take_text(params["textDocument"], params["contentChanges"][0]["text"])
        case "textDocument/diagnostic" if len(TEXTS) == 2:  # once, it wants to be asked again
            TEXTS["again"] = ""
            write(id=message["id"], error={"code": -32802, "message": "later"})
        case "textDocument/diagnostic":
            items = problems(TEXTS[params["textDocument"]["uri"]])
            write(id=message["id"], result={"kind": "full", "items": items})
        case "textDocument/documentSymbol" if MODE != "hang":
            write(id=message["id"], error={"code": -32601, "message": "not here"})


begin()
while received := read():
    note(received)
    take(received)
while MODE == "stubborn":
    time.sleep(60)
