"""`cortex up` and `cortex serve`: run the processes for a configuration until a signal arrives.

`serve` runs the gateway's processes; the configuration names database, Redis and neurons. `up` adds an
embedded Redis, a local neuron and helexa-tiny, and keeps everything in one directory.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from cortex_site.base.addresses import is_loopback, local_address, local_url, split_listen
from cortex_site.base.extras import lacking
from cortex_site.base.settings_file import ConfigError
from cortex_site.config.contradictions import tls_objections
from cortex_site.config.cortex_toml import CortexConfig, NeuronEntry
from cortex_site.processes import programs
from cortex_site.processes.supervisor import STATE_FILE, Program, StartError, Supervisor

TINY = "helexa-tiny"
TINY_WAIT_S = 120.0
UNIX_PATH_BYTES = 100  # sockaddr_un holds 108
QUESTION = "Which port does neuron listen on?"

NEURON_TOML = f"""\
# The local neuron of `cortex up`.

[[models]]  # loaded at start
id = "{TINY}"
"""
MODELS_TOML = f"""\
# The models of `cortex up`: what may be loaded when a request asks for it.

[[models]]
id = "{TINY}"
"""

EXPOSED_WITHOUT_KEYS = (
    "Protected mode: the API listens beyond this machine. Until there is an API key, clients on loopback are "
    "served and others get a 401. Make a key in the admin, or set allow_anonymous = true."
)


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """What to run, and in which environment."""

    config: CortexConfig
    sockets: programs.Sockets
    env: Mapping[str, str]
    first: tuple[Program, ...] = ()  # started before the database is prepared
    logs: Path | None = None  # None: the processes write to our stderr
    local_neuron: str | None = None  # its address
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))


def prepare_home(home: Path) -> None:
    """Make the state directory, for its owner alone, whoever made it. Raises `ConfigError` if that fails.

    What is written later is the owner's alone too.
    """
    os.umask(0o077)
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        if stat.S_IMODE(home.stat().st_mode) & 0o077:
            home.chmod(0o700)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        raise ConfigError(
            [f"{home}: cannot be written or made private: {error.strerror}; choose another with --home"]
        ) from error


def _check(config: CortexConfig, *extras: str) -> None:
    """Raise `ConfigError` before anything starts if a package is missing or a file cannot be used."""
    if config.database.url:
        extras = (*extras, "postgres")
    if objections := [*lacking("gateway", *extras), *tls_objections(config)]:
        raise ConfigError(objections)


def plan_serve(config: CortexConfig, config_path: Path | None) -> LaunchPlan:
    """The plan of `cortex serve`."""
    _check(config)
    prepare_home(config.home)
    env = {"CORTEX_STATE_DIR": str(config.home)}
    if config_path:
        env["CORTEX_CONFIG"] = str(config_path.resolve())
    logs = _log_folder(config.home) if config.log_files else None
    return LaunchPlan(config, programs.Sockets.bind(config), env, logs=logs)


def _log_folder(home: Path) -> Path:
    folder = home / "logs"
    folder.mkdir(exist_ok=True)
    return folder


def plan_up(config: CortexConfig, config_path: Path | None, neuron_listen: str) -> LaunchPlan:
    """The plan of `cortex up`: the configuration with an embedded Redis and a local neuron.

    The processes read these additions from their environment, which overrides any file.
    """
    home = config.home
    local = NeuronEntry(name="local", endpoint=f"http://{neuron_listen}")
    if any(neuron.name == local.name for neuron in config.neurons):
        raise ConfigError([f"neurons: `up` starts a node {local.name!r} of its own; give yours another name"])
    _check(config, "neuron")
    prepare_home(home)
    sockets = programs.Sockets.bind(config)
    programs.bind(neuron_listen).close()  # neuron binds its own; this reports a conflict now
    redis_socket = _redis_socket(home)
    neurons = [*config.neurons, local]
    env = {
        "CORTEX_STATE_DIR": str(home),
        "CORTEX_REDIS__URL": f"unix://{redis_socket}",
        "CORTEX_NEURONS": json.dumps([neuron.model_dump(exclude_none=True) for neuron in neurons]),
        "CORTEX_GATEWAY__LISTEN": config.gateway.listen,
        "CORTEX_GATEWAY__METRICS_LISTEN": config.gateway.metrics_listen,
        "CORTEX_GATEWAY__ADMIN_LISTEN": config.gateway.admin_listen,
    }
    if config_path:
        env["CORTEX_CONFIG"] = str(config_path.resolve())
    if config.models_config is None:
        env["CORTEX_MODELS_CONFIG"] = str(_first_file(home, "models.toml", MODELS_TOML))
    logs = _log_folder(home)
    first = (
        programs.redis_program(home, redis_socket),
        programs.neuron_program(neuron_listen, _first_file(home, "neuron.toml", NEURON_TOML)),
    )
    return LaunchPlan(config, sockets, env, first, logs, neuron_listen)


def _redis_socket(home: Path) -> Path:
    """The socket's path: in the state directory, unless that is too long for a socket's address."""
    path = home / "redis.sock"
    if len(os.fsencode(path)) < UNIX_PATH_BYTES:
        return path
    return Path(tempfile.mkdtemp(prefix="cortex-")) / "redis.sock"


def _first_file(home: Path, name: str, text: str) -> Path:
    """The path of a settings file, written on first use; the operator may edit it afterwards."""
    path = home / name
    if not path.exists():
        path.write_text(text)
    return path


def run(plan: LaunchPlan) -> int:
    """The exit code, after SIGINT or SIGTERM."""
    try:
        return asyncio.run(_run(plan))
    except StartError as error:
        plan.console.print(f"[red]{error}[/red]")
        return 1


async def _run(plan: LaunchPlan) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    supervisor = Supervisor(
        tell=lambda line: _tell(plan.console, line),
        state_path=plan.config.home / STATE_FILE,
        log_dir=plan.logs,
    )
    supervisor.facts = {
        "api": local_url(plan.config.gateway.listen, tls=plan.config.gateway.speaks_tls),
        "admin": local_url(plan.config.gateway.admin_listen),
    }
    if plan.local_neuron:  # what `cortex up` adds to its configuration
        supervisor.facts |= {
            "redis": plan.env["CORTEX_REDIS__URL"],
            "neuron": f"http://{plan.local_neuron}",
        }
    starting = asyncio.create_task(_start(plan, supervisor))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            await stopping
    finally:
        starting.cancel()
        stopping.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)
        plan.console.print("Stopping …")
        plan.sockets.close()  # once the workers close theirs, connections are refused
        await supervisor.stop()
    return 0


def _tell(console: Console, line: str) -> None:
    with suppress(OSError):  # the reader is gone; the processes stay
        console.print(f"[yellow]{line}[/yellow]")


async def _start(plan: LaunchPlan, supervisor: Supervisor) -> None:
    with plan.console.status("Starting …") as status:
        try:
            password = await _start_all(plan, supervisor, status.update)
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        if plan.local_neuron:
            await _await_tiny(plan, plan.local_neuron, status.update)
    _say_ready(plan, password)


async def _start_all(plan: LaunchPlan, supervisor: Supervisor, show: Callable[[str], None]) -> str:
    """Start everything; return the administrator's password if it was made just now.

    Only the database has to be there before its users: they wait for each other by themselves. Raises an
    `ExceptionGroup` of `StartError`.
    """
    password = ""
    async with asyncio.TaskGroup() as starts:
        for program in plan.first:
            starts.create_task(supervisor.start(program))
        async for step, found in _prepare(plan):
            show(f"{step.capitalize()} …")
            password = found or password
        show("Starting the gateway and its control plane …")
        for group in programs.serve_programs(plan.config, plan.sockets, plan.env):
            starts.create_task(supervisor.start(*group))
    return password


async def _prepare(plan: LaunchPlan) -> AsyncIterator[tuple[str, str]]:
    """Each step as it begins, with the administrator's password if it was made just now."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "cortex_site.site.prepare",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **plan.env},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    async for line in process.stdout:
        fact = json.loads(line)
        yield fact["step"], fact.get("password", "")
    errors = (await process.stderr.read()).decode(errors="replace").strip()
    if await process.wait():
        raise StartError(f"The database could not be prepared.\n{errors}")


async def _await_tiny(plan: LaunchPlan, neuron: str, show: Callable[[str], None]) -> None:
    """Wait for the first model, which loads while the rest starts: ready means that it answers."""
    gateway = plan.config.gateway
    address = local_address(gateway.listen)
    deadline = asyncio.get_running_loop().time() + TINY_WAIT_S
    while asyncio.get_running_loop().time() < deadline:
        if await programs.is_loaded(TINY, address, split_listen(neuron), tls=gateway.speaks_tls):
            return
        show(f"Loading {TINY} …")
        await asyncio.sleep(0.2)
    raise StartError(f"{TINY} was not loaded within {TINY_WAIT_S:g} s; see {plan.logs}/neuron.log")


def _say_ready(plan: LaunchPlan, password: str) -> None:
    gateway = plan.config.gateway
    api = local_url(gateway.listen, tls=gateway.speaks_tls)
    lines = [
        "",
        "[bold green]cortex is ready.[/bold green]",
        f"  API      {api}/v1",
        f"  Metrics  {local_url(gateway.metrics_listen)}/metrics",
        f"  Admin    {local_url(gateway.admin_listen)}/admin/",
    ]
    if plan.local_neuron:
        lines.append(f"  Neuron   http://{plan.local_neuron}")
    if password:
        lines.append(f"  Admin user [bold]admin[/bold], password [bold]{password}[/bold] (shown this once)")
    if plan.logs:
        lines.append(f"  State    {plan.config.home} (logs in {plan.logs})")
    if not is_loopback(split_listen(gateway.listen)[0]) and not gateway.allow_anonymous:
        lines.append(f"  [yellow]{EXPOSED_WITHOUT_KEYS}[/yellow]")
    if plan.local_neuron:
        body = json.dumps(
            {"model": TINY, "messages": [{"role": "user", "content": QUESTION}], "stream": True}
        )
        curl = "curl -kN" if gateway.speaks_tls else "curl -N"
        lines += [
            "",
            "Try:",
            f"  {curl} {api}/v1/chat/completions -H 'content-type: application/json' -d '{body}'",
        ]
    lines += ["", "Ctrl-C ends it."]
    plan.console.print("\n".join(lines), soft_wrap=True)
