"""A stand-in for an inference server as managed engines are: vLLM, SGLang or llama-server, by its options.

It is run as `python -m tests.stubs.stand_in_engine LIKE OPTIONS…` with the options of the program that it
stands for, and answers chats with what it was asked. A file `engine.json` in the model's directory says how
it behaves; where that is a file, one beside it:

    start       "slow": not ready before a file `go` is there; "oom", "unsupported": says so and ends;
                "hang": says it has no memory, and stays; "taken": the first port is taken; "killed": dies by
                SIGKILL; "exit": ends without a word
    crash       how often it ends once it is ready, by files that it counts in
    children    how many processes it starts beside, each in a session of its own

Models named in a chat's text: `die` ends the process, `forever` streams until nobody reads, `flat` is
refused with an error without OpenAI's envelope, `refuse` with one, `wedge` makes it answer nothing any more.
It writes what it sees to `engine.log` beside `engine.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SECRETS = {"vllm": "VLLM_API_KEY", "llama-server": "LLAMA_API_KEY", "sglang": ""}


class Engine:
    """What the handler's threads share."""

    def __init__(self, like: str, arguments: list[str]) -> None:
        parser = argparse.ArgumentParser()
        if like == "vllm":
            parser.add_argument("model")
        else:
            parser.add_argument("--model", "--model-path", dest="model")
        parser.add_argument("--port", type=int)
        parser.add_argument("--host")
        parser.add_argument("--served-model-name", "--alias", dest="name")
        self.options, self.more = parser.parse_known_args(arguments)
        path = Path(self.options.model)
        self.folder = path if path.is_dir() else path.parent
        self.like = like
        self.secret = os.environ.get(SECRETS[like] or "-", "")
        self.has_sleep = os.environ.get("VLLM_SERVER_DEV_MODE") == "1" or "--enable-memory-saver" in self.more
        self.ready = self.asleep = self.wedged = False
        file = self.folder / "engine.json"
        self.behaviour: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}

    def note(self, what: str, **facts: Any) -> None:
        with (self.folder / "engine.log").open("a") as log:
            log.write(json.dumps({"what": what, **facts}) + "\n")

    def counted(self, what: str) -> int:
        """How often this was called for the model's directory, this time included."""
        number = 0
        while True:
            number += 1
            try:
                (self.folder / f"{what}-{number}").touch(exist_ok=False)
            except FileExistsError:
                continue
            return number


def say(line: str, end: str = "\n") -> None:
    sys.stdout.write(line + end)
    sys.stdout.flush()


def begin(engine: Engine) -> None:
    """Do what the behaviour says of the start, then become ready."""
    engine.note(
        "start",
        pid=os.getpid(),
        argv=sys.argv[2:],
        cuda=os.environ.get("CUDA_VISIBLE_DEVICES"),
        names=sorted(name for name in os.environ if name.startswith("NEURON_")),
    )
    say("Loading safetensors checkpoint shards:  50% Completed", end="\r")
    match engine.behaviour.get("start"):
        case "slow":
            while not (engine.folder / "go").exists():
                time.sleep(0.02)
        case "oom":
            say("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
            say("failed to allocate buffer of size 2147483648")
            os._exit(1)
        case "hang":
            say("cudaMalloc failed: out of memory, failed to allocate")
            time.sleep(3600)
        case "unsupported":
            say("ValueError: Model architectures ['X'] are not supported for now.")
            say("unknown model architecture: 'x'")
            os._exit(1)
        case "taken" if engine.counted("taken") == 1:
            say("OSError: [Errno 98] Address already in use")
            os._exit(1)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
    for _ in range(engine.behaviour.get("children", 0)):
        child = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=True
        )
        engine.note("child", pid=child.pid)
    engine.ready = True
    say("The server is fired up and ready to roll!")
    if engine.counted("ready") <= engine.behaviour.get("crash", 0):
        time.sleep(0.3)
        os._exit(9)


class Handler(BaseHTTPRequestHandler):
    engine: Engine
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.engine.wedged:
            time.sleep(3600)
        match self.path:
            case "/health":
                self.answer(200 if self.engine.ready else 503, {})
            case "/v1/models":
                entry = {"id": self.engine.options.name, "max_model_len": 512, "meta": {"n_ctx": 512}}
                self.answer(200, {"data": [entry]})
            case _:
                self.answer(404, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"] or 0))
        if self.path.startswith("/v1/"):
            self.infer(json.loads(body))
        elif self.engine.has_sleep and self.path.startswith(("/sleep", "/release", "/wake_up", "/resume")):
            self.engine.asleep = self.path.startswith(("/sleep", "/release"))
            self.engine.note("asleep" if self.engine.asleep else "awake")
            self.answer(200, {})
        else:
            self.answer(404, {})

    def infer(self, body: dict[str, Any]) -> None:
        if self.engine.secret and self.headers["authorization"] != f"Bearer {self.engine.secret}":
            self.answer(401, {"error": {"message": "wrong key"}})
            return
        text = body["messages"][-1]["content"] if "messages" in body else "hi"
        if body["model"] != self.engine.options.name:
            self.answer(404, {"error": {"message": f"no model {body['model']}", "code": 404}})
        elif text == "die":
            os._exit(7)
        elif text == "wedge":
            self.engine.wedged = True
            self.answer(200, {})
        elif text == "flat":
            self.answer(400, {"object": "error", "message": "too long", "code": 400})
        elif text == "refuse":
            self.answer(400, {"error": {"message": "no", "type": "BadRequestError", "code": 400}})
        elif body.get("stream"):
            self.stream(text)
        else:
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            answer = {"id": "c", "object": "chat.completion", "created": 1, "model": body["model"]}
            self.answer(200, answer | {"choices": [choice], "usage": usage})

    def stream(self, text: str) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        words = text.split()
        try:
            while words:
                word = words.pop(0)
                if word == "forever":
                    words = [word]
                    time.sleep(0.01)
                elif word == "pause":
                    time.sleep(0.5)
                elif word == "die-now":
                    os._exit(7)
                self.event({"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]})
            self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            self.event({"choices": [], "usage": usage})
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            self.engine.note("gone")

    def event(self, part: dict[str, Any]) -> None:
        whole = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"} | part
        self.wfile.write(f"data: {json.dumps(whole)}\n\n".encode())
        self.wfile.flush()

    def answer(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main() -> None:
    engine = Engine(sys.argv[1], sys.argv[2:])
    assert engine.options.host == "127.0.0.1"
    Handler.engine = engine
    server = ThreadingHTTPServer((engine.options.host, engine.options.port), Handler)
    server.daemon_threads = True
    threading.Thread(target=begin, args=[engine], daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
