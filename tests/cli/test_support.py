from __future__ import annotations

import json
import stat
import tarfile

from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cortex_site.cli.app import app
from cortex_site.cli.support import HIDDEN, hidden, without_secrets

CONFIG = """\
state_dir = "{home}"
[database]
url = "postgresql://cortex:hunter2@db/cortex"
[gateway]
metrics_token = "metrics-secret"
[[neurons]]
name = "a"
endpoint = "http://127.0.0.1:9"
token = "node-secret"
"""
LOG = [
    {"level": "info", "message": "fine"},
    {"level": "error", "message": "refused sk-cortex-abcdefgh123", "token": "log-secret"},
]


def run(folder, *arguments: str):
    home = folder / "home"
    (home / "logs").mkdir(parents=True, exist_ok=True)
    (home / "logs" / "tasks.log").write_text("".join(json.dumps(line) + "\n" for line in LOG) + "{broken\n")
    (folder / "cortex.toml").write_text(CONFIG.format(home=home))
    return CliRunner().invoke(
        app, ["support", *arguments, "--config", str(folder / "cortex.toml"), "--home", str(home)]
    )


def test_a_bundle_says_what_is_needed_and_no_secret(tmp_path):
    path = tmp_path / "out.tar.gz"
    result = run(tmp_path, str(path))
    assert result.exit_code == 0, result.output
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with tarfile.open(path) as bundle:
        parts = {each.name: bundle.extractfile(each).read().decode() for each in bundle}
    everything = "\n".join(parts.values())
    for secret in ("hunter2", "metrics-secret", "node-secret", "log-secret", "abcdefgh123"):
        assert secret not in everything
    assert "node a at http://127.0.0.1:9" in parts["cortex-support/check.txt"]
    assert parts["cortex-support/status.json"].startswith("not available")
    errors = [json.loads(line) for line in parts["cortex-support/errors.jsonl"].splitlines()]
    assert [error["message"] for error in errors] == [f"refused {HIDDEN}"]
    assert "django" in parts["cortex-support/versions.json"].lower()


def test_a_file_that_is_there_is_not_written_over(tmp_path):
    path = tmp_path / "out.tar.gz"
    path.write_text("mine")
    result = run(tmp_path, str(path))
    assert result.exit_code == 1
    assert path.read_text() == "mine"


@given(st.recursive(st.text() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_secret_fields_are_hidden_wherever_they_are(value):
    found = json.dumps(hidden([{"a": value, "my_token": "s3cret-s3cret"}]))
    assert "s3cret-s3cret" not in found


def test_credentials_in_addresses_are_hidden():
    assert (
        without_secrets("redis://:pass@h:1/0 and http://h/a@b") == f"redis://{HIDDEN}@h:1/0 and http://h/a@b"
    )
