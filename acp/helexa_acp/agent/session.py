"""One session: its history, its options, and what its turns work with.

All that a client must be shown again after a reload goes through `keep`, which writes it to the log and
applies it to the transcript.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from helexa_acp.agent import modes, options, system_prompt
from helexa_acp.agent.approvals import Approvals
from helexa_acp.agent.budget_guard import BudgetGuard
from helexa_acp.agent.checkpoints import Checkpoints
from helexa_acp.agent.hooks import Hooks
from helexa_acp.agent.modes import Mode
from helexa_acp.agent.permission_rules import PermissionRules, project_key
from helexa_acp.agent.reply import new_id
from helexa_acp.cancellation import CancelToken
from helexa_acp.endpoint import Endpoint
from helexa_acp.provider.endpoints import Endpoints, ModelChoice, UnknownModelError
from helexa_acp.storage.log import SessionLog
from helexa_acp.storage.records import AgentSaid, CardBegun, Chose, Record, Titled
from helexa_acp.storage.shadow_git import ShadowGit
from helexa_acp.storage.store import SessionStore
from helexa_acp.storage.transcript import Transcript
from helexa_acp.tools.background import BackgroundCommands
from helexa_acp.tools.builtin import builtin_tools
from helexa_acp.tools.files import Files
from helexa_acp.tools.lsp.servers import LanguageServers
from helexa_acp.tools.mcp.servers import McpServers
from helexa_acp.tools.processes import ChildProcesses
from helexa_acp.tools.roots import Roots
from helexa_acp.tools.sandbox import Confinement, find_sandbox
from helexa_acp.tools.shell import ShellTool
from helexa_acp.tools.skill_tool import SkillTool
from helexa_acp.tools.skills import Skill, find_skills, skill_folders
from helexa_acp.tools.tool import Tool
from helexa_acp.tools.web_search import web_search_tool
from helexa_acp.v1 import updates
from helexa_acp.v1.client import Client

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Home:
    """What all sessions share: the agent's directories, the session store and the endpoints."""

    data: Path
    config: Path
    store: SessionStore
    endpoints: Endpoints
    system_prompt_path: Path | None = None

    def plan_path(self, cwd: str) -> Path:
        return self.data / "plans" / f"{project_key(cwd)}.md"

    def shadow_git(self, id_: str, cwd: str) -> ShadowGit:
        return ShadowGit(self.data / "checkpoints" / f"{project_key(cwd)}.git", cwd, id_)

    def rules(self, cwd: str) -> PermissionRules:
        return PermissionRules(self.data / "projects" / project_key(cwd) / "permissions.toml", cwd)


class Session:
    """A session that is open. `log` holds its records, `transcript` the state that follows from them."""

    def __init__(
        self, id_: str, cwd: str, additional: list[str], *, log: SessionLog, home: Home, client: Client
    ) -> None:
        self.id = id_
        self.cwd = cwd
        self.additional = additional
        self.log = log
        self.home = home
        self.client = client
        self.transcript = Transcript()
        self.plan_path = home.plan_path(cwd)
        self.roots = Roots(cwd, additional, [self.plan_path])
        self.files = Files(client, id_)
        self.copies = home.store.copies(id_)
        self.processes = ChildProcesses(home.endpoints.config.command_environment)
        self.background = BackgroundCommands(self.processes)
        self.checkpoints = Checkpoints(home.shadow_git(id_, cwd))
        self.skills: dict[str, Skill] = {}
        self.approvals = Approvals(client, id_, home.rules(cwd))
        self.budget = BudgetGuard(
            client,
            id_,
            self.transcript,
            configured=lambda: self.home.endpoints.config.budget,
            keep=self.keep,
            show=self.show,
        )
        self.mcp = McpServers(cwd)
        self.language_servers: LanguageServers | None = None
        self.running: CancelToken | None = None  # of the turn in progress
        config = home.endpoints.config
        self._sandbox = sandbox = config.extensions.sandbox
        writable = [cwd, *additional, *sandbox.writable]
        self.confinement = Confinement(find_sandbox(sandbox.use), writable, network=sandbox.network)
        self.confined_shell = ShellTool(
            has_background=config.offers("background"), confinement=self.confinement
        )
        search = config.extensions.web_search
        search_tool = web_search_tool(search, lambda: self.mcp.tools) if search else None
        self._tools = builtin_tools(config.offers, search_tool)
        self.client_prompt: tuple[str, ...] = ()  # how to take the client's system prompt, and its text
        self.label = ""  # stands before the titles of cards
        self.place = id_  # the session in which the client shows the cards
        self.added_tools: dict[str, Tool] = {}  # those that need the session itself
        self._deferred_notices: list[tuple[str, str, str]] = []
        self.is_listed = False  # has an entry in the list of sessions, as from its first prompt on
        self._low_limits: set[tuple[str, str]] = set()  # endpoint and unit, as the user was told
        self._options_shown: list[dict[str, Any]] | None = None
        self.commands_shown: list[dict[str, Any]] | None = None

    @property
    def endpoints(self) -> Endpoints:
        return self.home.endpoints

    @property
    def tools(self) -> dict[str, Tool]:
        skill_tools: dict[str, Tool] = {"skill": SkillTool(self.skills)} if self.skills else {}
        is_confined = self._sandbox.always or self.mode is Mode.SANDBOX
        shell: dict[str, Tool] = {"shell": self.confined_shell} if is_confined else {}
        tools = {**self._tools, **shell, **self.added_tools, **skill_tools, **self.mcp.tools}
        return {name: tool for name, tool in tools.items() if self.home.endpoints.config.offers(name)}

    @property
    def hooks(self) -> Hooks:
        hooks = self.endpoints.config.extensions.hooks
        return Hooks(hooks, self.processes, session_id=self.id, cwd=self.cwd)

    def system_text(self) -> str:
        """Return the system prompt. Raises PromptError."""
        given = system_prompt.PromptOverrides(self.home.system_prompt_path, *self.client_prompt)
        return system_prompt.build(self.cwd, self.mode, self.plan_path, given, self.skills.values())

    def find_skills(self) -> None:
        """Look for skills anew. A turn does so once, so that its requests begin alike."""
        self.skills = find_skills(skill_folders(self.cwd, self.home.config))

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
        """The model of the next request: the chosen one if its endpoint still exists, else the default."""
        chosen = self.transcript.chose.model
        if chosen:
            name, _, _ = chosen.partition(":")
            if self.endpoints.config.endpoint(name) is not None:
                return self.endpoints.resolve(chosen)
            log.warning("session %s: endpoint %r no longer exists, using the default", self.id, name)
        return self.endpoints.default()

    def show(self, update: updates.Update) -> None:
        """Send an update, unless it is of a kind that the client has not declared to understand."""
        if self.client.understands(update):
            self.client.update(self.id, update)

    def begin_nested_card(self, card: updates.Update) -> None:
        """Show a card of a sub-agent, and keep its place among the others."""
        self.keep(CardBegun(card["toolCallId"]))
        self.show(card)

    def keep(self, record: Record) -> None:
        """Write a record to the log and apply it to the transcript."""
        self.log.append(record)
        self.transcript.apply(record)

    def say(self, text: str) -> None:
        """Show a text of the agent's own in the conversation. No model reads it."""
        said = AgentSaid(new_id("msg"), text)
        self.keep(said)
        self.show(updates.message_chunk(said.message_id, text))

    def notice(self, severity: str, title: str, description: str = "") -> None:
        """Tell the user something that is not part of an answer.

        A client without notices gets it as text of the current turn, or of the next one.
        """
        if self.client.has_notices:
            self.show(updates.notice(severity, title, description))
        elif self.running is not None:
            self._say_notice(title, description)
        else:
            self._deferred_notices.append((severity, title, description))

    def say_deferred_notices(self) -> None:
        notices = self._deferred_notices
        self._deferred_notices = []
        for _, title, description in notices:
            self._say_notice(title, description)

    def _say_notice(self, title: str, description: str) -> None:
        self.say(f"**{title}**" + (f": {description}" if description else "") + "\n\n")

    def options(self) -> list[dict[str, Any]]:
        """Return the configuration options for an answer, after which the client has seen them."""
        mode = options.mode_option(self.mode, self.modes())
        effort = self.transcript.chose.effort
        self._options_shown = options.config_options(self.endpoints, mode, self.choice, effort)
        return self._options_shown

    def modes(self) -> dict[Mode, tuple[str, str]]:
        """Return the modes' names and descriptions."""
        return modes.descriptions(self.confinement, always=self._sandbox.always)

    def show_options(self) -> None:
        """Send the options if they have changed since the client last saw them."""
        before = self._options_shown
        if self.options() != before and self._options_shown is not None:
            self.show(updates.config_options(self._options_shown))

    def choose_mode(self, mode: Mode) -> None:
        self.keep(Chose(mode=mode.value))

    def choose_model(self, selector: str) -> ModelChoice:
        """Choose the model of the next request. Raises UnknownModelError."""
        choice = self.endpoints.resolve(selector)
        known = {info.id for info in self.endpoints.models(choice.endpoint)}
        if known and choice.model not in known and choice.endpoint.name in self.endpoints.listed:
            raise UnknownModelError(f"endpoint {choice.endpoint.name!r} has no model {choice.model!r}")
        self.keep(Chose(model=choice.tag))
        return choice

    def choose_effort(self, effort: str) -> None:
        self.keep(Chose(effort=effort))

    def set_title(self, title: str, *, listed: bool = True) -> None:
        """Keep the title, and publish it if the session is to be in the list."""
        self.keep(Titled(title))
        if listed:
            self.publish_info()

    def publish_info(self) -> None:
        """Update the session's entry in the list of sessions, on disk and in the client."""
        title = self.transcript.title
        updated_at = self.home.store.note(self.id, self.cwd, title, self.additional)
        self.is_listed = True
        self.show(updates.session_info(title, updated_at))

    def sees_images(self, choice: ModelChoice) -> bool:
        """Return whether images are sent to the model: as far as is known, it reads them."""
        provider = self.endpoints.provider(choice.endpoint)
        return self.endpoints.info(choice).images is not False and provider.takes_images(choice.model)

    def show_usage(self) -> None:
        """Send how much of the context window is in use, if the window is known."""
        choice = self.choice
        window = self.window(choice) if choice else None
        limits = self.endpoints.provider(choice.endpoint).rate_limits if choice else ()
        if window:
            told = [asdict(limit) for limit in limits]
            self.show(updates.usage(self.transcript.used_tokens, window, self.transcript.cost, told))

    def tell_low_limits(self, endpoint: Endpoint) -> None:
        """Tell the user what is nearly used up of an endpoint's rate limits, once until more is left."""
        for limit in self.endpoints.provider(endpoint).rate_limits:
            place = (endpoint.name, limit.unit)
            if limit.is_low and place not in self._low_limits:
                self.notice("warning", f"{endpoint.name}: {limit}")
            self._low_limits = self._low_limits - {place} | ({place} if limit.is_low else set())

    def window(self, choice: ModelChoice) -> int | None:
        """Return the model's context window in tokens, or None if it is unknown."""
        return self.endpoints.info(choice).context_window

    def cancel(self) -> None:
        if self.running is not None:
            self.running.cancel()

    async def aclose(self) -> None:
        self.cancel()
        ending = [self.processes.kill_all(), self.mcp.aclose(), self.checkpoints.aclose()]
        ending += [self.language_servers.aclose()] if self.language_servers else []
        await asyncio.gather(*ending)
        await asyncio.to_thread(self.confinement.remove_tmp)
        self.log.close()
