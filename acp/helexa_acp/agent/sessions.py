"""The open sessions, and the protocol's methods on them.

A session is open from new, load or resume until close, delete or the end of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping
from typing import Any

from helexa_acp.agent import catalogue, choices, options, slash_commands
from helexa_acp.agent.diagnostics import language_servers
from helexa_acp.agent.mcp_host import SessionHost
from helexa_acp.agent.replay import replay
from helexa_acp.agent.session import Home, Session
from helexa_acp.agent.task_tool import TaskTool
from helexa_acp.agent.turn import run_turn
from helexa_acp.cancellation import CancelToken
from helexa_acp.config import Config, config_home, data_home, models_path
from helexa_acp.provider.endpoints import Endpoints
from helexa_acp.provider.quirks import QuirkBook
from helexa_acp.rpc.connection import current_request
from helexa_acp.rpc.framing import NOT_FOUND, RpcError
from helexa_acp.storage.records import Titled, UserSaid
from helexa_acp.storage.shadow_git import ShadowGitError
from helexa_acp.storage.store import NoSuchSessionError, SessionStore
from helexa_acp.tools.sandbox import find_sandbox
from helexa_acp.v1 import params as check
from helexa_acp.v1 import updates
from helexa_acp.v1.client import Client
from helexa_acp.v1.content import BadBlockError, check_blocks

log = logging.getLogger(__name__)

Params = dict[str, Any]


def make_home(config: Config, env: Mapping[str, str] = os.environ) -> Home:
    """Return what all sessions under this configuration share."""
    data = data_home(env)
    endpoints = Endpoints(config, QuirkBook(data / "quirks.json"), models_path(env))
    return Home(data, config_home(env), SessionStore(data / "sessions"), endpoints, config.system_prompt_path)


class Sessions:
    """Each method of the protocol takes the parameters of a request and returns its result.

    Raises RpcError.
    """

    def __init__(self, config: Config, client: Client, home: Home | None = None) -> None:
        self.client = client
        self._open: dict[str, Session] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._home = home or make_home(config)
        self._retired: list[Endpoints] = []
        self._home.endpoints.on_change = self._models_changed
        self._home.endpoints.refresh()
        use = config.extensions.sandbox.use
        self._sandbox_sought = asyncio.create_task(asyncio.to_thread(find_sandbox, use))

    async def use(self, config: Config) -> None:
        """Take a new configuration. Open sessions use it from their next turn on."""
        home = make_home(config)
        self._retired.append(self._home.endpoints)  # a turn may still be using them
        self._home = home
        self._home.endpoints.on_change = self._models_changed
        self._home.endpoints.refresh()
        for session in self._open.values():
            session.home = self._home

    async def aclose(self) -> None:
        await asyncio.gather(*(self._forget(id_) for id_ in list(self._open)), return_exceptions=True)
        await asyncio.gather(
            *(e.aclose() for e in (*self._retired, self._home.endpoints)),
            self._sandbox_sought,
            return_exceptions=True,
        )

    async def new(self, params: Params) -> Params:
        cwd = check.absolute(params)
        additional = check.directories(params)
        servers = check.mcp_servers(params)
        prompt = check.system_prompt(params)
        await asyncio.to_thread(check.exist, cwd, additional)
        await self._find_sandbox()
        id_, log_ = self._home.store.create(cwd)
        session = Session(id_, cwd, additional, log=log_, home=self._home, client=self.client)
        session.client_prompt = prompt
        self._adopt(session, servers)
        return {"sessionId": id_, **self._state(session)}

    async def load(self, params: Params) -> Params:
        session = await self._reopen(params)
        for update in replay(session.transcript.records):
            session.show(update)
            await self.client.drain()
        if session.is_listed:
            session.publish_info()
        session.show_usage()
        return self._state(session)

    async def resume(self, params: Params) -> Params:
        session = await self._reopen(params)
        current_request().after.append(session.show_usage)
        return self._state(session)

    async def list_page(self, params: Params) -> Params:
        return catalogue.page(self._home.store, params)

    async def archive(self, params: Params) -> Params:
        """Archive a session, which closes it if it is open."""
        id_ = check.string(params, "sessionId")
        answer = catalogue.archive(self._home.store, id_, archived=True)
        await self._forget(id_)
        return answer

    async def unarchive(self, params: Params) -> Params:
        return catalogue.archive(self._home.store, check.string(params, "sessionId"), archived=False)

    async def status(self, params: Params) -> Params:
        id_ = check.string(params, "sessionId")
        return {"status": "open"} if id_ in self._open else catalogue.status(self._home.store, id_)

    async def set_title(self, params: Params) -> Params:
        id_ = check.string(params, "sessionId")
        title = catalogue.title_of(params)
        session = self._open.get(id_)
        if session is None:
            catalogue.retitle(self._home.store, id_, title)
        else:
            session.set_title(title, listed=session.is_listed)
        return {"title": title}

    async def close(self, params: Params) -> Params:
        await self._forget(self._find(params).id)
        return {}

    async def delete(self, params: Params) -> Params:
        """Delete a session; one that does not exist counts as deleted."""
        id_ = check.string(params, "sessionId")
        await self._forget(id_)
        cwd = self._home.store.cwd_of(id_)
        if cwd is not None:
            await asyncio.to_thread(self._home.shadow_git(id_, cwd).forget)
        self._home.store.delete(id_)
        return {}

    async def fork(self, params: Params) -> Params:
        """Return a new session that begins with all that a session contains."""
        id_ = check.string(params, "sessionId")
        check.absolute(params)
        check.system_prompt(params)
        try:
            copy = self._home.store.copy(id_)
        except NoSuchSessionError as error:
            raise catalogue.not_found(id_, error) from error
        session = await self._reopen({**params, "sessionId": copy})
        commits = session.transcript.checkpoints.values()
        with contextlib.suppress(ShadowGitError):
            await asyncio.to_thread(session.checkpoints.git.keep, list(commits))
        title = session.transcript.title
        if title is not None:
            session.keep(Titled(f"{title} (fork)"))
        current_request().after += [session.publish_info, session.show_usage]
        return {"sessionId": copy, **self._state(session)}

    async def prompt(self, params: Params) -> Params:
        session = self._find(params)
        try:
            blocks = check_blocks(params.get("prompt"))
        except BadBlockError as error:
            raise check.invalid(str(error)) from error
        session.cancel()  # a new prompt ends the previous one
        token = session.running = CancelToken()
        current_request().cancel = token.cancel
        try:
            async with self._turns[session.id]:
                stop = await run_turn(session, blocks, token)
        except RpcError:
            if not token.cancelled:
                raise
            stop = "cancelled"  # errors on the way to a cancellation do not count
        finally:
            if session.running is token:
                session.running = None
        current_request().after += [lambda: self._show_commands(session), self._home.endpoints.refresh]
        return {"stopReason": "cancelled" if token.cancelled else stop}

    def cancel(self, session_id: str) -> None:
        session = self._open.get(session_id)
        if session is not None:
            session.cancel()

    def cancel_all(self) -> None:
        for session in self._open.values():
            session.cancel()

    async def set_mode(self, params: Params) -> Params:
        return choices.set_mode(self._find(params), params)

    async def set_model(self, params: Params) -> Params:
        return choices.set_model(self._find(params), params)

    async def set_config_option(self, params: Params) -> Params:
        return choices.set_config_option(self._find(params), params)

    def _find(self, params: Params) -> Session:
        id_ = check.string(params, "sessionId")
        session = self._open.get(id_)
        if session is None:
            raise RpcError(NOT_FOUND, f"session {id_!r} is not open; load or resume it")
        return session

    async def _reopen(self, params: Params) -> Session:
        id_ = check.string(params, "sessionId")
        cwd = check.absolute(params)
        servers = check.mcp_servers(params)
        prompt = check.system_prompt(params)
        try:
            log_ = self._home.store.open(id_)
        except NoSuchSessionError as error:
            raise catalogue.not_found(id_, error) from error
        await self._forget(id_)
        await self._find_sandbox()
        session = Session(id_, cwd, check.directories(params), log=log_, home=self._home, client=self.client)
        session.client_prompt = prompt
        for record in log_.read_new():
            session.transcript.apply(record)
            session.is_listed = session.is_listed or isinstance(record, UserSaid)
        self._adopt(session, servers)
        return session

    async def _find_sandbox(self) -> None:
        """Wait until it is known which sandbox works, so that sessions know it."""
        await asyncio.shield(self._sandbox_sought)
        await asyncio.to_thread(find_sandbox, self._home.endpoints.config.extensions.sandbox.use)

    async def _forget(self, id_: str) -> None:
        """Cancel the session's turn, wait for its answer, and close the session."""
        session = self._open.pop(id_, None)
        if session is None:
            return
        session.cancel()
        async with self._turns.pop(id_):
            await session.aclose()

    def _adopt(self, session: Session, servers: list[dict[str, Any]]) -> None:
        self._open[session.id] = session
        self._turns[session.id] = asyncio.Lock()
        names = {server["name"] for server in servers}
        own = self._home.endpoints.config.extensions.mcp_servers
        servers = [*servers, *(server for server in own if server["name"] not in names)]
        session.added_tools["task"] = TaskTool(session)
        session.language_servers = language_servers(session)
        session.mcp.start(servers, SessionHost(session, lambda: self._show_commands(session)))
        self._home.endpoints.refresh()
        # The client does not know the session before it has the answer.
        current_request().after.append(lambda: self._show_commands(session))

    def _show_commands(self, session: Session) -> None:
        available = slash_commands.as_json(slash_commands.available(session))
        if available != session.commands_shown:
            session.commands_shown = available
            session.show(updates.commands(available))

    def _state(self, session: Session) -> Params:
        return {
            "modes": options.mode_state(session.mode, session.modes()),
            "configOptions": session.options(),
        }

    def _models_changed(self) -> None:
        for session in self._open.values():
            with contextlib.suppress(OSError):
                session.show_options()
