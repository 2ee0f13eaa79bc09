"""An MCP server in raw JSON-RPC, which asks its client for everything that a server may ask for.

python raw_mcp_server.py [hang | die | stubborn PID_FILE]
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

LINK = {"type": "resource_link", "uri": "test://report", "name": "report", "mimeType": "text/plain"}
FORM = {"type": "object", "properties": {"colour": {"type": "string"}}, "required": ["colour"]}
QUESTION = {"role": "user", "content": {"type": "text", "text": "What is the answer?"}}


def send(message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def ask(method, **params):
    """Send a request to the client, and return its result or error."""
    send({"id": f"mine-{method}", "method": method, "params": params})
    while True:
        message = json.loads(sys.stdin.readline())
        if message.get("id") == f"mine-{method}":
            return message.get("result", message.get("error"))


def call(params):
    match params["name"]:
        case "link":
            return [{"type": "text", "text": "see"}, LINK]
        case "slow":
            token = params["_meta"]["progressToken"]
            for part in (1, 2):
                body = {"progressToken": token, "progress": part, "total": 4, "message": "working"}
                send({"method": "notifications/progress", "params": body})
            return [{"type": "text", "text": "done"}]
        case "ask":
            answer = ask("elicitation/create", message="Which colour?", requestedSchema=FORM)
        case "sample":
            answer = ask("sampling/createMessage", messages=[QUESTION], maxTokens=10)
        case "roots":
            answer = ask("roots/list")
    return [{"type": "text", "text": json.dumps(answer)}]


def answer(method, params):
    match method:
        case "initialize":
            capabilities = {"tools": {}, "prompts": {}, "resources": {}}
            info = {"name": "raw", "version": "1"}
            return {"protocolVersion": "2025-06-18", "capabilities": capabilities, "serverInfo": info}
        case "tools/list":
            names = ("link", "slow", "ask", "sample", "roots")
            return {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in names]}
        case "tools/call":
            return {"content": call(params)}
        case "prompts/list":
            arguments = [{"name": "file", "required": True}, {"name": "focus"}]
            return {"prompts": [{"name": "review", "description": "Review a file", "arguments": arguments}]}
        case "prompts/get":
            text = f"Review {params['arguments']}"
            return {"messages": [{"role": "user", "content": {"type": "text", "text": text}}]}
        case "resources/list":
            return {"resources": [{"uri": "test://report", "name": "report", "description": "of the day"}]}
        case "resources/read":
            return {"contents": [{"uri": params["uri"], "mimeType": "text/plain", "text": "all is well"}]}
    return None


def serve():
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message or "method" not in message:
            continue
        result = answer(message["method"], message.get("params", {}))
        if result is None:
            send({"id": message["id"], "error": {"code": -32601, "message": "not here"}})
        else:
            send({"id": message["id"], "result": result})


if __name__ == "__main__":
    sys.stderr.write("words of the child\n")
    match sys.argv[1:]:
        case ["die"]:
            sys.exit("there is no key")
        case ["hang", pid_file]:
            Path(pid_file).write_text(str(os.getpid()))
            while True:
                time.sleep(60)
        case ["stubborn", pid_file]:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            child = subprocess.Popen(["sleep", "300"], stdin=subprocess.DEVNULL)
            Path(pid_file).write_text(f"{os.getpid()} {child.pid}")
            serve()
            while True:
                time.sleep(60)
    serve()
