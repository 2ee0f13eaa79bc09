"""One session: what it is, what was said in it, and what has been chosen. Turns act on it; the server finds
it.

Whatever a client is shown and must be shown again goes through `keep`, which writes it to the log and folds
it into the transcript in one step.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helexa_acp.agent import options
from helexa_acp.agent.approvals import Approvals
from helexa_acp.agent.modes import Mode
from helexa_acp.agent.permission_rules import PermissionRules, project_key
from helexa_acp.agent.reply import new_id
from helexa_acp.cancellation import CancelToken
from helexa_acp.provider.endpoints import Endpoints, ModelChoice, UnknownModelError
from helexa_acp.storage.log import SessionLog
from helexa_acp.storage.records import AgentSaid, Chose, Record, Titled
from helexa_acp.storage.store import SessionStore
from helexa_acp.storage.transcript import Transcript
from helexa_acp.tools.builtin import builtin_tools
from helexa_acp.tools.files import Files
from helexa_acp.tools.mcp import McpServers
from helexa_acp.tools.processes import ChildProcesses
from helexa_acp.tools.roots import Roots
from helexa_acp.tools.tool import Tool
from helexa_acp.v1 import updates
from helexa_acp.v1.client import Client

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Home:
    """Where the agent keeps things, and what all sessions share."""

    data: Path
    config: Path
    store: SessionStore
    endpoints: Endpoints
    system_prompt_path: Path | None = None

    def plan_path(self, cwd: str) -> Path:
        return self.data / "plans" / f"{project_key(cwd)}.md"

    def rules(self, cwd: str) -> PermissionRules:
        return PermissionRules(self.data / "projects" / project_key(cwd) / "permissions.toml", cwd)


class Session:
    def __init__(
        self, id_: str, cwd: str, additional: list[str], *, log: SessionLog, home: Home, client: Client
    ) -> None:
        self.id, self.cwd, self.additional = id_, cwd, additional
        self.log, self.home, self.client = log, home, client
        self.transcript = Transcript()
        self.plan_path = home.plan_path(cwd)
        self.roots = Roots(cwd, additional, [self.plan_path])
        self.files = Files(client, id_)
        self.processes = ChildProcesses()
        self.approvals = Approvals(client, id_, home.rules(cwd))
        self.mcp = McpServers(cwd, self.notice)
        self.running: CancelToken | None = None
        self._tools = builtin_tools()
        self._deferred_notices: list[tuple[str, str, str]] = []
        self._options_shown: list[dict[str, Any]] | None = None
        self.commands_shown: list[dict[str, Any]] | None = None

    @property
    def endpoints(self) -> Endpoints:
        return self.home.endpoints

    @property
    def tools(self) -> dict[str, Tool]:
        return {**self._tools, **self.mcp.tools}

    @property
    def mode(self) -> Mode:
        chosen = self.transcript.chose.mode
        return Mode(chosen) if chosen in list(Mode) else Mode.DEFAULT

    @property
    def effort(self) -> str | None:
        effort = self.transcript.chose.effort
        return None if effort == options.DEFAULT_EFFORT else effort

    @property
    def choice(self) -> ModelChoice | None:
        """The model of the next request: the chosen one while its endpoint exists, else the default."""
        chosen = self.transcript.chose.model
        if chosen:
            name, _, _ = chosen.partition(":")
            if self.endpoints.config.endpoint(name) is not None:
                return self.endpoints.resolve(chosen)
            log.warning("session %s: endpoint %r is gone, using the default", self.id, name)
        return self.endpoints.default()

    def show(self, update: updates.Update) -> None:
        """Unless it is of a kind that the client did not say it understands."""
        if self.client.understands(update):
            self.client.update(self.id, update)

    def keep(self, record: Record) -> None:
        self.log.append(record)
        self.transcript.apply(record)

    def say(self, text: str) -> None:
        """Words of ours in the conversation."""
        said = AgentSaid(new_id("msg"), text)
        self.keep(said)
        self.show(updates.message_chunk(said.message_id, text))

    def notice(self, severity: str, title: str, description: str = "") -> None:
        """Something worth knowing that is no answer: as a notice, else as text of the turn that runs or
        comes next."""
        if self.client.has_notices:
            self.show(updates.notice(severity, title, description))
        elif self.running is not None:
            self._say_notice(title, description)
        else:
            self._deferred_notices.append((severity, title, description))

    def say_deferred_notices(self) -> None:
        notices, self._deferred_notices = self._deferred_notices, []
        for _, title, description in notices:
            self._say_notice(title, description)

    def _say_notice(self, title: str, description: str) -> None:
        self.say(f"**{title}**" + (f": {description}" if description else "") + "\n\n")

    def options(self) -> list[dict[str, Any]]:
        self._options_shown = options.config_options(
            self.endpoints, self.mode, self.choice, self.transcript.chose.effort
        )
        return self._options_shown

    def show_options(self) -> None:
        """Send the options again if they differ from what the client last saw."""
        before = self._options_shown
        if self.options() != before and self._options_shown is not None:
            self.show(updates.config_options(self._options_shown))

    def choose_mode(self, mode: Mode) -> None:
        self.keep(Chose(mode=mode.value))

    def choose_model(self, selector: str) -> ModelChoice:
        """Raises UnknownModelError."""
        choice = self.endpoints.resolve(selector)
        known = {info.id for info in self.endpoints.models(choice.endpoint)}
        if known and choice.model not in known and choice.endpoint.name in self.endpoints.listed:
            raise UnknownModelError(f"endpoint {choice.endpoint.name!r} has no model {choice.model!r}")
        self.keep(Chose(model=choice.tag))
        return choice

    def choose_effort(self, effort: str) -> None:
        self.keep(Chose(effort=effort))

    def set_title(self, title: str) -> None:
        self.keep(Titled(title))
        self.publish_info()

    def publish_info(self) -> None:
        """Let the list of sessions know, here and on disk."""
        title = self.transcript.title
        updated_at = self.home.store.note(self.id, self.cwd, title)
        self.show(updates.session_info(title, updated_at))

    def show_usage(self) -> None:
        choice = self.choice
        window = self.window(choice) if choice else None
        if window:
            self.show(updates.usage(self.transcript.used_tokens, window, self.transcript.cost))

    def window(self, choice: ModelChoice) -> int | None:
        return self.endpoints.info(choice).context_window

    def cancel(self) -> None:
        if self.running is not None:
            self.running.cancel()

    async def aclose(self) -> None:
        self.cancel()
        await self.processes.kill_all()
        await self.mcp.aclose()
        self.log.close()
