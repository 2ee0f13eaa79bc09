"""What commands see of the agent's environment: not the keys of endpoints, and what the configuration lets pass."""

from __future__ import annotations

import json

import pytest
from acp_testing.process import FULL_CLIENT

from helexa_acp.config import parse_config

KEYS = "one_$ONE_KEY two_$TWO_KEY three_$COPY_OF_ONE four_$HELEXA_ACP_API_KEY five_$PLAIN"
SCRIPT = (
    f"[[turn]]\n[[turn.reply]]\nsteps = [{{ call = 'shell', args = {{ command = {json.dumps('echo ' + KEYS)} }} }}]\n"
    "[[turn.reply]]\nsteps = [{ text = 'done' }]\n"
)
SECOND = '[[endpoints]]\nname = "two"\nbase_url = "http://two.invalid/v1"\napi_key_env = "TWO_KEY"\n'


@pytest.fixture
def keyed(script, env):
    script(SCRIPT, f'api_key_env = "ONE_KEY"\n{SECOND}')
    env |= {"ONE_KEY": "secret1", "TWO_KEY": "secret2", "COPY_OF_ONE": "secret1", "PLAIN": "x"}
    env["HELEXA_ACP_API_KEY"] = "secret3"


@pytest.mark.usefixtures("keyed")
async def test_commands_do_not_see_the_keys_of_endpoints(start, project):
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        await agent.prompt(session, "go")
        assert "one_ two_ three_ four_ five_x" in json.dumps(agent.updates)


@pytest.mark.usefixtures("keyed")
async def test_nor_in_a_terminal_of_the_client(start, project):
    async with start() as agent:
        await agent.initialize(FULL_CLIENT)
        session = await agent.new_session(project)
        await agent.prompt(session, "go")
        (created,) = agent.calls("terminal/create")
        argv = [created["params"]["command"], *created["params"]["args"]]
        begin = argv.index("-c")
        assert argv[0] == "env"
        assert {"ONE_KEY", "TWO_KEY", "COPY_OF_ONE", "HELEXA_ACP_API_KEY"} == set(argv[2 : begin - 1 : 2])
        assert argv[begin + 1] == f"echo {KEYS}"


ENV = {"PATH": "/bin", "A_TOKEN": "t", "E_KEY": "s", "HELEXA_ACP_API_KEY": "h"}


def environment(**more):
    endpoint = {"name": "e", "base_url": "http://e/v1", "api_key_env": "E_KEY"}
    config = parse_config({"endpoints": [endpoint], **more}, source="c", env=ENV)
    return config.command_environment


@pytest.mark.parametrize(
    ("passed", "names"),
    [
        (None, ["A_TOKEN", "PATH"]),
        (["PATH"], ["PATH"]),
        (["*_TOKEN", "P*"], ["A_TOKEN", "PATH"]),
        (["*"], ["A_TOKEN", "PATH"]),
        (["E_*"], []),  # a pattern passes no key
        (["PATH", "E_KEY"], ["E_KEY", "PATH"]),  # its name does
    ],
)
def test_the_configuration_lists_what_commands_see(passed, names):
    more = {} if passed is None else {"command_variables": passed}
    assert sorted(environment(**more).variables(ENV)) == names


def test_the_key_of_an_endpoint_that_is_skipped_is_a_secret_too():
    broken = {"name": "b", "base_url": "nonsense", "api_key_env": "B_KEY"}
    good = {"name": "e", "base_url": "http://e/v1"}
    config = parse_config({"endpoints": [good, broken]}, source="c", env={"B_KEY": "s"})
    assert config.command_environment.variables({"B_KEY": "s", "A": "a"}) == {"A": "a"}
