"""The tool `shell`, and which permissions a command needs."""

from __future__ import annotations

from typing import Any

from helexa_acp.tools import shellwords
from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.processes import ProcessResult
from helexa_acp.tools.read import fenced
from helexa_acp.tools.sandbox import CommandAccess, Confinement
from helexa_acp.tools.shellwords import SimpleCommand
from helexa_acp.tools.terminal import run_command, shell_argv
from helexa_acp.tools.tool import Outcome, Permission, PermissionRule, PreparedCall, ToolContext, spec
from helexa_acp.tools.truncation import clip, one_line
from helexa_acp.v1.updates import text_content

DEFAULT_TIMEOUT_S = 120
MAX_TIMEOUT_S = 1800
MAX_COMMAND_CHARS = 100_000
SANDBOX_HINT = ", in the sandbox; if that is why, ask for access"

# Programs, and commands of programs, that only read and print, whatever their options and arguments are: they
# run nothing else and write nowhere. A rule for all of their uses is offered for these alone.
_ONLY_READING = frozenset(
    """
    b2sum basename cat cksum cmp comm cut df dirname du echo egrep expand false fgrep fold free grep groups
    head id jq join ls md5sum nl nproc od paste ps pwd readlink realpath seq sha1sum sha256sum sha512sum stat
    strings tac tail tr true uname uptime wc which whoami
    """.split()  # noqa: SIM905 - a list would take a line for each
)
_ONLY_READING_OF_GIT = frozenset(
    ("check-ignore", "count-objects", "ls-files", "ls-tree", "merge-base", "rev-parse", "show-ref", "status")
)


# The tools of permissions for shell commands: who may run a command by the first may do so by the others.
UNCONFINED = "shell"
SHELLS = {
    CommandAccess.ALL: UNCONFINED,
    CommandAccess.NETWORK: "networked-shell",
    CommandAccess.CONFINED: "sandboxed-shell",
}
_ACCESS = "what the sandbox withholds, which the user is asked for: the network, or all (no sandbox)"


class ShellTool:
    """Runs commands; with a confinement, in its sandbox unless the call asks for more."""

    kind = "execute"
    read_only = False

    def __init__(self, *, has_background: bool = True, confinement: Confinement | None = None) -> None:
        in_background = (
            ", or with background=true runs on, and the tool background tells of it: for servers and watchers"
        )
        self._confinement = confinement
        has_sandbox = confinement is not None and confinement.sandbox is not None
        access = {
            "type": "string",
            "enum": [CommandAccess.NETWORK.value, CommandAccess.ALL.value],
            "description": _ACCESS,
        }
        self.spec = spec(
            "shell",
            f"Run a shell command and get its output. It ends after timeout_s ({DEFAULT_TIMEOUT_S} if absent)"
            f"{in_background if has_background else ''}.",
            ("command",),
            command={"type": "string"},
            cwd={"type": "string", "description": "the working directory if absent"},
            timeout_s={"type": "integer", "minimum": 1},
            **({"background": {"type": "boolean"}} if has_background else {}),
            **({"access": access} if has_sandbox else {}),
        )

    async def prepare(self, args: dict[str, Any], ctx: ToolContext) -> PreparedCall:
        command = args["command"]
        if not command.strip() or "\0" in command or len(command) > MAX_COMMAND_CHARS:
            raise ToolError(f"command must be 1 to {MAX_COMMAND_CHARS} characters without a null character")
        cwd = str(ctx.roots.resolve(args.get("cwd", ".")))
        timeout_s = min(args.get("timeout_s", DEFAULT_TIMEOUT_S), MAX_TIMEOUT_S)
        access, confinement = self._access(args), self._confinement
        argv = shell_argv(command)
        argv = confinement.wrap(argv, cwd, access) if confinement else argv
        hint = SANDBOX_HINT if confinement and access is not CommandAccess.ALL else ""

        async def run() -> Outcome:
            ctx.files.command_begins()
            return _outcome(await run_command(argv, cwd, timeout_s, ctx), timeout_s, hint)

        async def start() -> Outcome:
            ctx.files.command_begins()
            started = await ctx.background.start(command, argv, cwd)
            text = f"{started.id} runs in the background"
            return Outcome(text, [text_content(text)])

        in_background = bool(args.get("background"))
        return PreparedCall(
            one_line(command) + (" (in the background)" if in_background else ""),
            start if in_background else run,
            permissions(command, SHELLS[access]),
            [text_content(confinement.guarantee(access))] if confinement else [],
            is_confined=confinement is not None and confinement.is_tight and access is CommandAccess.CONFINED,
        )

    def _access(self, args: dict[str, Any]) -> CommandAccess:
        if self._confinement is None or self._confinement.sandbox is None:
            return CommandAccess.ALL
        return CommandAccess(args.get("access", CommandAccess.CONFINED))


def permissions(command: str, shell: str = UNCONFINED) -> tuple[Permission, ...]:
    """Return a permission for each simple command, or one for the whole if it cannot be parsed."""
    parsed = shellwords.parse(command)
    if parsed is None:
        rule = PermissionRule(shell, "exact", command)
        return (Permission(shell, command, (rule,), broader=UNCONFINED),)
    return tuple(dict.fromkeys(_permission(simple, shell) for simple in parsed))


def _permission(command: SimpleCommand, shell: str) -> Permission:
    rules = [PermissionRule(shell, "exact", command.text)]
    prefix = _prefix(command.words)
    if prefix and len(command.words) > len(prefix):
        rules.append(PermissionRule(shell, "prefix", " ".join(prefix)))
    return Permission(shell, command.text, tuple(rules), command.words, UNCONFINED)


def _prefix(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words that say that a command only reads, or none if they do not."""
    if words[0] in _ONLY_READING:
        return words[:1]
    return words[:2] if words[0] == "git" and words[1:2] and words[1] in _ONLY_READING_OF_GIT else ()


def _outcome(ran: ProcessResult, timeout_s: float, hint: str) -> Outcome:
    if ran.timed_out:
        end = f"ended after {timeout_s:.0f} s without finishing"
    elif ran.cancelled:
        end = "cancelled"
    elif ran.signal:
        end = f"signal {ran.signal}"
    else:
        end = f"exit code {ran.exit_code}"
    output = clip(ran.output)
    cut = "[output cut]\n" if ran.truncated else ""
    failed = ran.timed_out or ran.cancelled or bool(ran.signal) or ran.exit_code != 0
    text = f"{cut}{output.rstrip()}\n[{end}{hint if failed else ''}]".lstrip()
    raw = {"exitCode": ran.exit_code, "signal": ran.signal, "timedOut": ran.timed_out}
    return Outcome(text, None, [text_content(fenced(text))], is_error=failed, raw=raw)
