"""Sub-agents: rounds of a model in a fresh context, inside a call of the session's model.

A sub-agent works in its session: in its directories, with its permissions and under its cancellation. Its
history is its own, so the session's log holds only what was shown, what was changed and what it cost.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from helexa_acp.agent.hooks import Hooks
from helexa_acp.agent.modes import Mode
from helexa_acp.agent.replay import report_id
from helexa_acp.agent.reply import new_id
from helexa_acp.agent.session import Session
from helexa_acp.cancellation import CancelToken
from helexa_acp.extensions import MODES, AgentKind
from helexa_acp.provider.types import Message, Role
from helexa_acp.storage.records import AssistantSaid, CardDone, Edited, Record, Spent
from helexa_acp.tools.tool import Tool
from helexa_acp.v1 import updates
from helexa_acp.v1.subagents import in_session, shown_in, subagent

WITHHELD = {"plan", "ask"}  # the plan is the session's, and nobody answers
PROMPT = """
You are a sub-agent with the task in the first message. Nobody answers questions, so decide yourself what it
leaves open. Your last message is your report: all that the one who gave the task needs to know, and no more.
"""


class Subagent(Session):
    """A session within a session. `card_id` is the card of the call that runs it.

    Raises UnknownModelError.
    """

    def __init__(self, parent: Session, kind: AgentKind, card_id: str, cancel: CancelToken) -> None:
        super().__init__(
            parent.id,
            parent.cwd,
            parent.additional,
            log=parent.log,
            home=parent.home,
            client=parent.client,
        )
        self.label = f"{kind.name}: "
        self.child_id = new_id("subagent")  # of the session that clients with sub-agents show
        self.approvals = parent.approvals
        if self.client.has_subagents:
            self.place = self.child_id
            self.approvals = parent.approvals.within(self.child_id)
        self.budget = parent.budget
        self.checkpoints = parent.checkpoints
        self.copies = parent.copies
        self.files = parent.files
        self.mcp = parent.mcp
        self.confinement = parent.confinement
        self.confined_shell = parent.confined_shell
        self.language_servers = parent.language_servers
        self.skills = parent.skills
        self.client_prompt = parent.client_prompt
        self.running = cancel
        self.limit = ""  # the one that it has reached
        self._cancel = cancel
        self._parent = parent
        self._kind = kind
        self._card_id = card_id
        self._num_tokens = 0
        chose = parent.transcript.chose
        model = self.endpoints.resolve(kind.model).tag if kind.model else chose.model
        self.transcript.apply(replace(chose, model=model))

    @property
    def tools(self) -> dict[str, Tool]:
        return {
            name: tool
            for name, tool in super().tools.items()
            if name not in WITHHELD and self._kind.may_use(name)
        }

    @property
    def hooks(self) -> Hooks:
        """The session's hooks, without those for the end of its turns."""
        return super().hooks.without("stop")

    @property
    def mode(self) -> Mode:
        """The narrower of its kind's mode and of the session's, which the user may change meanwhile."""
        modes = [mode for mode in (self._kind.mode, self._parent.mode.value) if mode is not None]
        return Mode(min(modes, key=MODES.index))

    @property
    def report(self) -> str:
        """The text of its last message."""
        said = [message for message in self.transcript.messages if message.role is Role.ASSISTANT]
        return said[-1].text if said else ""

    def system_text(self) -> str:
        extra = f"\n{self._kind.prompt}\n" if self._kind.prompt else ""
        return super().system_text() + PROMPT + extra

    def begin(self, task: str) -> None:
        self.transcript.messages.append(Message.of(Role.USER, task))

    def keep(self, record: Record) -> None:
        self.transcript.apply(record)
        match record:
            case CardDone(card=card):
                self._parent.keep(CardDone(self._nested(card)))
            case Edited():
                self._parent.keep(record)
            case AssistantSaid():
                self._parent.keep(Spent(record.model, record.usage, record.cost))
                self._count(record.usage)
            case Spent():  # by a sub-agent of its own
                self._parent.keep(record)
                self._count(record.usage)

    def show(self, update: updates.Update) -> None:
        """Show its calls among the session's, each with the card that it belongs to."""
        match update["sessionUpdate"]:
            case "tool_call":
                self.begin_nested_card(update)
            case "tool_call_update" | "subagent_update":
                self._parent.show({**update, "_meta": self._meta(update)})
            case "agent_message_chunk" if shown_in(update):  # of one of its own
                self._parent.show(update)
            case "notice":
                self._parent.show(update)

    def announce(self, title: str, state: str, **more: Any) -> None:
        """Tell a client with sub-agents that this one is running or idle."""
        self._parent.show(subagent(self.child_id, title, {"state": state, **more}))

    def show_report(self, text: str) -> None:
        """Show the report in the sub-agent's own session."""
        self._parent.show(in_session(self.child_id, updates.message_chunk(report_id(self.child_id), text)))

    def begin_nested_card(self, card: updates.Update) -> None:
        self._parent.begin_nested_card(self._nested(card))

    def say(self, text: str) -> None:
        """Say nothing: what concerns its context alone is not for the user."""

    def notice(self, severity: str, title: str, description: str = "") -> None:
        self._parent.notice(severity, f"{self.label}{title}", description)

    def show_options(self) -> None:
        """Show nothing: the options are the session's."""

    def show_usage(self) -> None:
        self._parent.show_usage()

    def _nested(self, card: dict[str, Any]) -> dict[str, Any]:
        title = str(card["title"])
        labelled = title if title.startswith(self.label) else f"{self.label}{title}"
        return {**card, "title": labelled, "_meta": self._meta(card)}

    def _meta(self, update: dict[str, Any]) -> dict[str, Any]:
        """Return where an update belongs; that of a sub-agent of its own says so already."""
        return {"parentToolCallId": self._card_id, "sessionId": self.child_id, **update.get("_meta", {})}

    def _count(self, usage: dict[str, int]) -> None:
        self._num_tokens += usage.get("prompt", 0) + usage.get("completion", 0)
        if self._num_tokens > self._kind.token_limit:
            self.stop_at_limit(f"{self._kind.token_limit} tokens")

    def stop_at_limit(self, limit: str) -> None:
        if not self._cancel.cancelled:
            self.limit = limit
            self._cancel.cancel()
