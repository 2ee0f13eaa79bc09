"""The progress of an endpoint that is not answering yet, such as one whose model is loading."""

from __future__ import annotations

from helexa_acp.agent.reply import new_id
from helexa_acp.agent.session import Session
from helexa_acp.agent.tool_card import ToolCard
from helexa_acp.provider.endpoints import ModelChoice
from helexa_acp.tools.tool import Outcome
from helexa_acp.tools.truncation import one_line


class ProgressCard:
    """One card, which is updated in place and closed when the answer begins."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._card: ToolCard | None = None

    def show(self, text: str) -> None:
        title = one_line(text)
        if self._card is None:
            state = {"toolCallId": new_id("status"), "title": title, "kind": "other", "status": "in_progress"}
            self._card = ToolCard.begun(state, self._session.show)
        elif self._card.state["title"] != title:
            self._card.change(title=title)

    def end(self, choice: ModelChoice) -> None:
        if self._card is not None:
            self._session.keep(self._card.done("", Outcome("")))
            self._card = None
            self._session.endpoints.refresh(choice.endpoint)  # the model's state has changed
