"""The slash command `/rewind`, which goes back to before a turn, in the conversation and in the files."""

from __future__ import annotations

import asyncio

from helexa_acp.agent.session import Session
from helexa_acp.cancellation import CancelToken
from helexa_acp.storage.records import Checkpointed, Undone, UserSaid
from helexa_acp.storage.shadow_git import ShadowGitError
from helexa_acp.tools.truncation import one_line
from helexa_acp.v1.content import prompt_text

HINT = "NUMBER of a turn | back"
MAX_LISTED = 30
MAX_NAMED_FILES = 20
BEFORE_REWIND = "before a rewind"  # stands for the turn of a checkpoint


async def rewind(session: Session, argument: str, _: CancelToken) -> None:
    if not argument:
        session.say(_listed(session))
        return
    commits = session.transcript.checkpoints
    turns = [turn.message_id for turn in session.transcript.turns]
    if argument == "back":
        goal, undone = commits.get(BEFORE_REWIND), []
    elif argument.isdecimal() and 1 <= int(argument) <= len(turns):
        undone = turns[int(argument) - 1 :]
        goal = commits.get(undone[0])
    else:
        session.say(f"There is no turn {argument!r}.\n\n{_listed(session)}")
        return
    if goal is None:
        session.say(f"Nothing is rewound: no checkpoint was taken. {_problem(session)}")
        return
    try:
        before, changed = await asyncio.to_thread(session.checkpoints.git.restore, goal)
    except (ShadowGitError, OSError) as error:
        session.say(f"Nothing is rewound: {error}.")
        return
    session.files.command_begins()  # the editor's buffers may be older now
    session.keep(Checkpointed(BEFORE_REWIND, before))
    for message_id in reversed(undone):
        session.keep(Undone(message_id))
    session.say(_done(len(undone), changed))


def _done(num_turns: int, changed: list[str]) -> str:
    named = ", ".join(f"`{path}`" for path in changed[:MAX_NAMED_FILES]) or "none"
    more = f" and {len(changed) - MAX_NAMED_FILES} more" if len(changed) > MAX_NAMED_FILES else ""
    turns = f"{num_turns} turns are no longer part of the conversation. " if num_turns else ""
    return f"{turns}Files that are as before: {named}{more}. `/rewind back` restores the files of just now."


def _listed(session: Session) -> str:
    transcript = session.transcript
    said = {record.message_id: record for record in transcript.records if isinstance(record, UserSaid)}
    lines = [
        f"{number}. {one_line(prompt_text(said[turn.message_id].blocks), 60) or 'attachments'}"
        + ("" if turn.message_id in transcript.checkpoints else " (no checkpoint)")
        for number, turn in enumerate(transcript.turns, 1)
    ]
    if not lines:
        return "There is no turn to go back to."
    return (
        "`/rewind NUMBER` goes back to before a turn: conversation and files, also those that you have "
        "changed since. Ignored files and those of more than 10 MB stay as they are.\n\n"
        + "\n".join(lines[-MAX_LISTED:])
        + f"\n\n{_problem(session)}"
    )


def _problem(session: Session) -> str:
    problem = session.checkpoints.problem
    return f"The last checkpoint failed: {problem}." if problem else ""
