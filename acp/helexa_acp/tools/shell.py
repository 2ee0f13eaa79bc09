"""The tool `shell`, and which permissions a command needs."""

from __future__ import annotations

import shlex
from typing import Any

from helexa_acp.tools import shellwords
from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.processes import ProcessResult
from helexa_acp.tools.read import fenced
from helexa_acp.tools.terminal import run_command, shell_argv
from helexa_acp.tools.tool import Outcome, Permission, PermissionRule, PreparedCall, ToolContext, spec
from helexa_acp.tools.truncation import clip, one_line
from helexa_acp.v1.updates import text_content

DEFAULT_TIMEOUT_S = 120
MAX_TIMEOUT_S = 1800
MAX_COMMAND_CHARS = 100_000

# Commands that run other commands, or destroy: no rule is offered that would cover all of their uses. A
# version at the end of a name is ignored.
_NO_PREFIX = frozenset(
    """
    bash sh zsh fish dash ksh pwsh busybox env sudo doas su xargs nohup nice ionice timeout watch setsid
    stdbuf chroot unshare script expect crontab at flock strace gdb entr parallel
    python pypy perl ruby node deno bun php lua julia Rscript tclsh osascript awk sed find ssh npx uvx
    rm dd mkfs chmod chown curl wget tee mv cp ln kill
    """.split()  # noqa: SIM905 - a list would take a line for each
)
# Commands whose second word, too, is needed to know what they do.
_TWO_WORDS = frozenset(
    """
    git npm pnpm yarn cargo go pip uv poetry docker podman kubectl make just gh systemctl apt brew dotnet
    mvn gradle bundle rails terraform helm
    """.split()  # noqa: SIM905
)
_NO_TWO_WORDS = frozenset(
    f"{command} {verb}"
    for verb, commands in {
        "exec": "npm pnpm yarn docker podman kubectl bundle",
        "dlx": "pnpm yarn",
        "run": "uv poetry docker podman kubectl go",
    }.items()
    for command in commands.split()
)


class ShellTool:
    kind = "execute"
    read_only = False

    def __init__(self, *, has_background: bool = True) -> None:
        in_background = (
            ", or with background=true runs on, and the tool background tells of it: for servers and watchers"
        )
        self.spec = spec(
            "shell",
            f"Run a shell command and get its output. It ends after timeout_s ({DEFAULT_TIMEOUT_S} if absent)"
            f"{in_background if has_background else ''}.",
            ("command",),
            command={"type": "string"},
            cwd={"type": "string", "description": "the working directory if absent"},
            timeout_s={"type": "integer", "minimum": 1},
            **({"background": {"type": "boolean"}} if has_background else {}),
        )

    async def prepare(self, args: dict[str, Any], ctx: ToolContext) -> PreparedCall:
        command = args["command"]
        if not command.strip() or "\0" in command or len(command) > MAX_COMMAND_CHARS:
            raise ToolError(f"command must be 1 to {MAX_COMMAND_CHARS} characters without a null character")
        cwd = ctx.roots.resolve(args.get("cwd", "."))
        timeout_s = min(args.get("timeout_s", DEFAULT_TIMEOUT_S), MAX_TIMEOUT_S)

        async def run() -> Outcome:
            ctx.files.command_begins()
            return _outcome(await run_command(command, str(cwd), timeout_s, ctx), timeout_s)

        async def start() -> Outcome:
            ctx.files.command_begins()
            started = await ctx.background.start(command, shell_argv(command), str(cwd))
            text = f"{started.id} runs in the background"
            return Outcome(text, [text_content(text)])

        if args.get("background"):
            return PreparedCall(f"{one_line(command)} (in the background)", start, permissions(command))
        return PreparedCall(one_line(command), run, permissions(command))


def permissions(command: str) -> tuple[Permission, ...]:
    """Return a permission for each simple command, or one for the whole if it cannot be parsed."""
    parsed = shellwords.parse(command)
    if parsed is None:
        return (Permission("shell", command, (PermissionRule("shell", "exact", command),)),)
    return tuple(dict.fromkeys(map(_permission, parsed)))


def _permission(words: tuple[str, ...]) -> Permission:
    subject = shlex.join(words)
    rules = [PermissionRule("shell", "exact", subject)]
    prefix = _prefix(words)
    if prefix and len(words) > len(prefix):
        rules.append(PermissionRule("shell", "prefix", " ".join(prefix)))
    return Permission("shell", subject, tuple(rules), words)


def _prefix(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words that tell what a command does, or none if they do not suffice for a rule."""
    name = words[0].rpartition("/")[2]
    prefix = words[: 2 if name in _TWO_WORDS else 1]
    opaque = name.rstrip("0123456789.") in _NO_PREFIX or " ".join((name, *prefix[1:])) in _NO_TWO_WORDS
    plain = all(word and not word.startswith("-") and not set(word) & set(" \t\"'\\") for word in prefix)
    return prefix if plain and not opaque else ()


def _outcome(ran: ProcessResult, timeout_s: float) -> Outcome:
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
    text = f"{cut}{output.rstrip()}\n[{end}]".lstrip()
    failed = ran.timed_out or ran.cancelled or bool(ran.signal) or ran.exit_code != 0
    raw = {"exitCode": ran.exit_code, "signal": ran.signal, "timedOut": ran.timed_out}
    return Outcome(text, None, [text_content(fenced(text))], is_error=failed, raw=raw)
