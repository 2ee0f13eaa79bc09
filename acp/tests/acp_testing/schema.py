"""The official JSON schema as the judge of every line that the agent writes."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator


class WireJudge:
    """Judges one conversation. It must see the client's requests too, to know what an answer answers."""

    def __init__(self, schema: Path) -> None:
        self._schema = json.loads(schema.read_text("utf-8"))
        self._asked: dict[Any, str] = {}
        self.judged = 0

    @cached_property
    def _by_method(self) -> dict[tuple[str, str], str]:
        names: dict[tuple[str, str], str] = {}
        for name, body in self._schema["$defs"].items():
            if "x-method" in body:
                kind = "response" if name.endswith("Response") else "call"
                names[body["x-method"], kind] = name
        return names

    def client_sent(self, message: Any) -> None:
        if isinstance(message, dict) and "method" in message and "id" in message:
            self._asked[json.dumps(message["id"])] = message["method"]

    def judge(self, line: bytes, *, results: bool = True) -> dict[str, Any]:
        """Return the message of a line that is valid. Without `results`, results are not judged.

        That is for conversations in which the client's ids do not tell which request was answered.
        """
        assert line.endswith(b"\n"), line[-200:]
        message = json.loads(line)
        assert message.get("jsonrpc") == "2.0", message
        self.judged += 1
        if "method" in message:
            assert set(message) <= {"jsonrpc", "id", "method", "params"}
            self._valid(self._by_method[message["method"], "call"], message["params"])
        elif "error" in message:
            assert set(message) == {"jsonrpc", "id", "error"}
            self._valid("Error", message["error"])
        else:
            assert set(message) == {"jsonrpc", "id", "result"}
            if not results:
                return message
            method = self._asked[json.dumps(message["id"])]
            if (method, "response") in self._by_method:
                self._valid(self._by_method[method, "response"], message["result"])
        return message

    def _valid(self, name: str, value: Any) -> None:
        schema = {"$defs": self._schema["$defs"], "$ref": f"#/$defs/{name}"}
        errors = [
            f"{'/'.join(map(str, e.path))}: {e.message}"
            for e in Draft202012Validator(schema).iter_errors(value)
        ]
        assert not errors, f"{name}: {errors[:3]} in {json.dumps(value)[:2000]}"


def judge_record(record: Path, schema: Path) -> int:
    """Judge what `clients/recorded_agent.py` wrote, and return how many lines came from agents."""
    judge, judged = WireJudge(schema), 0
    for entry in record.read_text("utf-8").splitlines():
        who, line = json.loads(entry)
        if who == "client":
            message = json.loads(line)
            if message.get("method") == "initialize":
                judge = WireJudge(schema)
            judge.client_sent(message)
        else:
            judge.judge(line.encode())
            judged += 1
    return judged
