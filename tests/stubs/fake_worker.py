"""A device worker without a device. It speaks `neuron.pipe` and follows the last user message:

    echo TEXT          answers TEXT and stops
    count N            answers 1, 2, 3 … up to N, one token a byte, one frame a number
    forever            answers a dot a millisecond until cancelled
    flood              answers dots as fast as it can until cancelled
    wait               answers nothing until cancelled
    refuse CODE        is refused with 503 CODE
    die                ends the process
    say-and-die TEXT   answers TEXT, then ends the process
    exhaust TEXT       answers TEXT, and then its grammar can go on no more
    lose               tells that its group is over, and answers nothing
    wedge              stays and sends nothing any more
    long               is refused with context_length_exceeded
    sampling           answers the parameters of its request, as JSON

A file `load.json` in a model's directory decides its load: {"fail": CODE} or {"die": true}, with {"rank": N}
of that rank alone, with {"device": N} of that device. With a file `gate`, the load waits, a quarter done,
until that file is gone. There is room for one model that is asleep.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import time
from pathlib import Path

from neuron import pipe
from neuron.text.directory import read_model_text
from neuron.text.model_text import ModelText
from tests.stubs.model_dir import CONTEXT

HEARTBEAT_S = 0.05
TALK_S = 0.001
MEMORY_MB = 1000


def _loaded(load: pipe.Load, *, was_asleep: bool) -> pipe.Loaded:
    stored = (load.quant, 4.5) if load.quant else ("f32", 32.0)
    kv_dtype = load.kv_dtype or "bfloat16"
    return pipe.Loaded(
        load.model,
        100,
        60,
        CONTEXT,
        format=stored[0],
        bits_per_weight=stored[1],
        kv_dtype=kv_dtype,
        seconds=0.1 if was_asleep else 2.0,
        was_asleep=was_asleep,
        memory_parts={"weights": 50, "draft": 10} if load.draft else {},
    )


class FakeWorker:
    def __init__(self, sock: socket.socket, thread: str) -> None:
        self._socket = sock
        self._thread = thread
        self._models: dict[str, ModelText] = {}
        self._asleep: set[str] = set()
        self._endless: dict[int, tuple[str, int, int]] = {}  # model, prompt tokens, dots a turn
        self._loads: list[pipe.Load] = []
        self._wedged = False

    def run(self) -> None:
        self.send(pipe.Ready(os.getpid(), self._thread, MEMORY_MB))
        selector = selectors.DefaultSelector()
        selector.register(self._socket, selectors.EVENT_READ)
        while True:
            if selector.select(TALK_S if self._talks else HEARTBEAT_S) and not self._wedged:
                for message in self._receive():
                    self._handle(message)
            if self._wedged:
                time.sleep(HEARTBEAT_S)
                continue
            self._turn()

    @property
    def _talks(self) -> bool:
        return any(dots for _, _, dots in self._endless.values())

    def _turn(self) -> None:
        for waiting in [wish for wish in self._loads if not (Path(wish.path) / "gate").exists()]:
            self._loads.remove(waiting)
            self._load(waiting)
        for number, (model, _, dots) in self._endless.items():
            if dots:
                self.send(pipe.Tokens(number, self._models[model].encode("." * dots)))
        self.send(self._status())

    def _status(self) -> pipe.Status:
        running = [model for model, _, _ in self._endless.values()]
        models = [
            pipe.ModelStatus(name, running.count(name), 0, 8, 8, 100, 100, 0.0, 0.0, 0)
            for name in self._models
        ]
        used = 100 * len(self._models)
        return pipe.Status(used, MEMORY_MB - used, models)

    def send(self, *messages: pipe.ToDaemon) -> None:
        try:
            self._socket.sendall(pipe.frame(messages))
        except OSError:
            os._exit(0)

    def _receive(self) -> list[pipe.ToWorker]:
        try:
            header = self._socket.recv(pipe.HEADER_BYTES, socket.MSG_WAITALL)
        except ConnectionError:
            header = b""
        if len(header) < pipe.HEADER_BYTES:
            os._exit(0)
        size = int.from_bytes(header, "big")
        return pipe.decode_to_worker(self._socket.recv(size, socket.MSG_WAITALL))

    def _handle(self, message: pipe.ToWorker) -> None:
        match message:
            case pipe.Load():
                self._loads.append(message)
                self.send(pipe.LoadProgress(message.model, 0.25))
            case pipe.Unload():
                self._unload(message)
            case pipe.Submit():
                self._submit(message)
            case pipe.Cancel(id=number):
                if number in self._endless:
                    _, prompt, _ = self._endless.pop(number)
                    self.send(pipe.Finished(number, "cancelled", prompt, 0))
            case pipe.AskMemory(id=number):
                status = self._status()
                self.send(pipe.Memory(number, status.memory_used_mb, status.memory_free_mb))
            case pipe.Shutdown():
                os._exit(0)

    def _load(self, message: pipe.Load) -> None:
        script = Path(message.path) / "load.json"
        wish = json.loads(script.read_text()) if script.exists() else {}
        if message.rank and message.rank.index != wish.get("rank", message.rank.index):
            wish = {}
        if f"-{wish.get('device', '')}" not in self._thread:
            wish = {}
        if wish.get("die"):
            os._exit(3)
        if code := wish.get("fail"):
            self.send(pipe.LoadFailed(message.model, code, f"{script}: {code}"))
            return
        over = self._models.get(message.base) if message.base else None
        self._models[message.model] = over or read_model_text(Path(message.path))
        was_asleep = message.model in self._asleep
        self._asleep.discard(message.model)
        self.send(pipe.LoadProgress(message.model, 1.0), _loaded(message, was_asleep=was_asleep))

    def _unload(self, message: pipe.Unload) -> None:
        model = message.model
        self._asleep.discard(model)
        sleeps = model in self._models and message.keep
        for name in [name for name in self._models if f"{name}:".startswith(f"{model}:")]:
            del self._models[name]  # its adapters too
        for number, (owner, _, _) in list(self._endless.items()):
            if owner == model:
                del self._endless[number]
                self.send(pipe.Refused(number, 503, "model_unloaded", f"{model} was unloaded", 5))
        if sleeps:
            self.send(*map(pipe.Dropped, self._asleep))
            self._asleep = {model}
        self.send(pipe.Unloaded(model, 40 if sleeps else None))

    def _submit(self, submit: pipe.Submit) -> None:
        text = self._models.get(submit.model)
        if text is None:  # it was unloaded while the request was on its way
            self.send(pipe.Refused(submit.id, 503, "model_unloaded", f"{submit.model} was unloaded", 5))
            return
        prompt = text.tokenizer.decode(submit.tokens, skip_special_tokens=False)
        said = prompt.rpartition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]
        verb, _, rest = said.partition(" ")
        match verb:
            case "echo":
                self._answer(submit, [text.encode(rest)])
            case "count":
                self._answer(submit, [text.encode(f"{number} ") for number in range(1, int(rest) + 1)])
            case "forever" | "wait" | "flood":
                dots = {"forever": 1, "wait": 0, "flood": 500}[verb]
                self._endless[submit.id] = (submit.model, len(submit.tokens), dots)
            case "refuse":
                self.send(pipe.Refused(submit.id, 503, rest, f"refused: {rest}", 7))
            case "long":
                message = f"This model's maximum context length is {CONTEXT} tokens."
                self.send(pipe.Refused(submit.id, 400, "context_length_exceeded", message))
            case "say-and-die":
                self.send(pipe.Tokens(submit.id, text.encode(rest)))
                os._exit(9)
            case "exhaust":
                self.send(pipe.Tokens(submit.id, text.encode(rest)))
                self.send(pipe.Refused(submit.id, 400, "grammar_exhausted", "too many states"))
            case "die" | "lose" | "wedge":
                self._fail(verb, submit)
            case "sampling":
                self._answer(submit, [text.encode(json.dumps(_seen(submit)))])

    def _fail(self, how: str, submit: pipe.Submit) -> None:
        if how == "die":
            os._exit(9)
        self._wedged = how == "wedge"
        if how == "lose":
            self._models.pop(submit.model)
            refused = pipe.Refused(submit.id, 503, "worker_lost", "rank 1 did not answer", 5)
            self.send(refused, pipe.GroupLost(submit.model, "rank 1 did not answer"))

    def _answer(self, submit: pipe.Submit, parts: list[list[int]]) -> None:
        sent, stop = 0, None
        if submit.score_prompt:
            self.send(pipe.Scored(submit.id, _logprobs(submit, submit.tokens[1:])))
        for part in parts:
            piece = part[: submit.max_tokens - sent]
            stop = next((token for token in piece if token in submit.stop_ids), None)
            piece = piece if stop is None else piece[: piece.index(stop)]
            sent += len(piece)
            if piece:
                self.send(pipe.Tokens(submit.id, piece, _logprobs(submit, piece)))
            if stop is not None:
                break
        reason = "length" if stop is None and sum(map(len, parts)) > sent else "stop"
        prompt = len(submit.tokens)
        self.send(pipe.Finished(submit.id, reason, prompt, sent, cached_tokens=prompt // 2, stop_id=stop))


def _logprobs(submit: pipe.Submit, tokens: list[int]) -> list[pipe.Logprob]:
    """A token's logprob is minus its id, and its alternatives are the ids after it."""
    wanted = submit.sampling.top_logprobs
    if wanted is None:
        return []
    return [
        pipe.Logprob(float(-token), tuple((token + i, float(-token - i)) for i in range(wanted)))
        for token in tokens
    ]


def _seen(submit: pipe.Submit) -> dict[str, object]:
    """The parameters of a request, for tests of how they arrive."""
    sampling = {name: getattr(submit.sampling, name) for name in submit.sampling.__struct_fields__}
    names = ("max_tokens", "min_tokens", "stop_ids", "principal", "priority")
    grammar = submit.grammar.lark if submit.grammar else None
    return sampling | {name: getattr(submit, name) for name in names} | {"grammar": grammar}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--device", required=True)
    arguments = parser.parse_args()
    thread = arguments.device.replace(":", "-dev-")
    FakeWorker(socket.socket(fileno=arguments.fd), thread).run()


if __name__ == "__main__":
    main()
