"""The operator API of a running cortex, for commands: one call a method, every failure a sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import httpx

from cortex_site.base.addresses import local_url
from cortex_site.config.cortex_toml import CortexConfig
from cortex_site.processes.supervisor import STATE_FILE

TIMEOUT_S = 10.0
URL_VARIABLE, TOKEN_VARIABLE = "CORTEX_ADMIN_URL", "CORTEX_OPERATOR_TOKEN"


class OperatorError(Exception):
    """The API refused, or could not be asked. `code` is its own where it answered."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code

    @property
    def is_silence(self) -> bool:
        return not self.code


class OperatorApi:
    """Asks at `CORTEX_ADMIN_URL`, else where the cortex of this state directory listens.

    Signs with `CORTEX_OPERATOR_TOKEN`, else with the token in that directory.
    """

    def __init__(self, config: CortexConfig, *, timeout_s: float = TIMEOUT_S) -> None:
        self.url = os.environ.get(URL_VARIABLE) or _local_url(config)
        self._token_file = config.home / "operator_token"
        self._timeout_s = timeout_s

    def get(self, path: str, **query: object) -> Any:
        return self._ask("GET", path, params={key: str(value) for key, value in query.items()})

    def post(self, path: str, body: object = None) -> Any:
        return self._ask("POST", path, json=body)

    def _ask(self, method: str, path: str, **content: Any) -> Any:
        headers = {"authorization": f"Bearer {self._token()}"}
        try:
            answer = httpx.request(
                method, f"{self.url}/api{path}", headers=headers, timeout=self._timeout_s, **content
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise OperatorError(f"the control plane at {self.url} does not answer: {error}") from error
        if answer.is_error:
            raise self._refusal(answer)
        try:
            return answer.json() if answer.content else None
        except ValueError as error:
            raise OperatorError(f"{self.url} is not a control plane of cortex") from error

    def _token(self) -> str:
        if given := os.environ.get(TOKEN_VARIABLE):
            return given.strip()
        try:
            return self._token_file.read_text().strip()
        except OSError as error:
            cure = f"set {TOKEN_VARIABLE}, or name the state directory of a running cortex with --home"
            raise OperatorError(f"{self._token_file}: {error.strerror}; {cure}") from error

    def _refusal(self, answer: httpx.Response) -> OperatorError:
        if answer.status_code == 401:
            where = TOKEN_VARIABLE if os.environ.get(TOKEN_VARIABLE) else str(self._token_file)
            message = f"{self.url} does not accept the operator token of {where}"
            return OperatorError(message, "unauthorized")
        try:
            error = answer.json()["error"]
            return OperatorError(str(error["message"]), str(error["code"]))
        except (ValueError, KeyError, TypeError):
            message = f"{self.url} answered {answer.status_code} to {answer.request.url.path}"
            return OperatorError(message, "no_envelope")


def read_state(home: Path) -> dict[str, Any]:
    """What the supervisor wrote; empty when none runs on this home."""
    try:
        state: dict[str, Any] = json.loads((home / STATE_FILE).read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return state


def _local_url(config: CortexConfig) -> str:
    return str(read_state(config.home).get("admin", local_url(config.gateway.admin_listen)))
