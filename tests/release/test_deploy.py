"""What `deploy/` offers: images, compose.yaml and the Helm chart, by the tools that will read them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from cortex_site.config import load_catalogue, load_config
from neuron.config import load_config as load_neuron_config
from tests.release.conftest import ROOT, run, tool

DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "cortex"
SECRETS = {
    "databaseUrl": "postgresql://db/cortex",
    "redisUrl": "redis://r",
    "secretKey": "s",
    "operatorToken": "o",
}
VARIATIONS = {
    "default": {"secrets": SECRETS},
    "everything": {
        "secrets": SECRETS,
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "gateway": {"autoscaling": {"queue": {"enabled": True}}, "nodeSelector": {"a": "b"}, "workers": 4},
    },
    "little": {
        "secrets": {"existing": "mine"},
        "gateway": {"autoscaling": {"enabled": False}},
        "neuron": {"gpus": 0, "nodeSelector": None, "tolerations": [], "config": "log_level = 'debug'"},
    },
    "gateways alone": {"secrets": SECRETS, "neuron": {"enabled": False}},
}
SERVER_VERSIONS = ("1.27", "1.34")
OF_AN_OPERATOR = {"ServiceMonitor"}  # no kind of Kubernetes itself


def rendered(values: dict, name: str = "demo") -> list[dict]:
    helm = pytest.importorskip("helm_python", reason="`make release` installs Helm")
    with helm.Chart.load(CHART) as chart:
        texts = chart.render(values=values, name=name)
    whole = (text for path, text in texts.items() if path.endswith(".yaml"))
    return [document for text in whole for document in yaml.safe_load_all(text) if document]


def one(documents: list[dict], kind: str, name: str = "") -> dict:
    (found,) = (
        each for each in documents if each["kind"] == kind and each["metadata"]["name"].endswith(name)
    )
    return found


@pytest.mark.parametrize("values", VARIATIONS.values(), ids=VARIATIONS)
def test_the_chart_renders_to_what_kubernetes_takes(values):
    kubernetes = pytest.importorskip("kubernetes_validate", reason="`make release` installs it")
    for document in rendered(values):
        for version in SERVER_VERSIONS if document["kind"] not in OF_AN_OPERATOR else ():
            kubernetes.validate(document, version, strict=True)


def test_helm_has_nothing_to_say_of_the_chart():
    helm = pytest.importorskip("helm_python", reason="`make release` installs Helm")
    report = helm.lint(CHART, values=VARIATIONS["everything"], strict=True)
    serious = [message for message in report["messages"] if message["severity"] > 1]
    assert not report["errors"] + serious


def test_values_that_cannot_be_are_refused():
    helm = pytest.importorskip("helm_python", reason="`make release` installs Helm")
    for values in ({"gateway": {"replicas": "two"}}, {"gatway": {}}, {"secrets": {}}):
        with pytest.raises(helm.HelmError):
            rendered(values)


def environment(container: dict) -> dict[str, str]:
    """What a container is told, with something in place of what its cluster and its secrets say."""
    return {each["name"]: each.get("value", "from-a-secret") for each in container["env"]}


@pytest.mark.parametrize("values", VARIATIONS.values(), ids=VARIATIONS)
def test_the_chart_s_settings_are_settings(values, tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("CORTEX_", "NEURON_"))]:
        monkeypatch.delenv(name)
    documents = rendered(values)
    for name, text in one(documents, "ConfigMap")["data"].items():
        (tmp_path / name).write_text(text)
    (container,) = one(documents, "Deployment")["spec"]["template"]["spec"]["containers"]
    with monkeypatch.context() as patch:
        for name, value in environment(container).items():
            patch.setenv(name, value)
        config = load_config(tmp_path / "cortex.toml")
        assert "demo-admin" in config.admin.allowed_hosts
        assert load_catalogue(config).models
    if values.get("neuron", {}).get("enabled", True):
        (container,) = one(documents, "DaemonSet")["spec"]["template"]["spec"]["containers"]
        for name, value in environment(container).items():
            monkeypatch.setenv(name, value.replace("$(POD_IP)", "10.0.0.7"))
        settings = load_neuron_config(tmp_path / "neuron.toml")
        assert settings.join.url == "http://demo-admin:31315"
        assert settings.public_url == "http://10.0.0.7:13131"


def test_what_the_chart_selects_is_there():
    documents = rendered(VARIATIONS["everything"])
    pods = one(documents, "Deployment")["spec"]["template"]["metadata"]["labels"]
    api = one(documents, "Service", "demo")
    for selector in (
        api["spec"]["selector"],
        one(documents, "Service", "-admin")["spec"]["selector"],
        one(documents, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one(documents, "Deployment")["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= pods.items()
    monitor = one(documents, "ServiceMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= api["metadata"]["labels"].items()
    assert {each["port"] for each in monitor["endpoints"]} <= {port["name"] for port in api["spec"]["ports"]}
    scaled = one(documents, "HorizontalPodAutoscaler")["spec"]
    assert scaled["scaleTargetRef"]["name"] == one(documents, "Deployment")["metadata"]["name"]
    names = {
        name for each in scaled["metrics"] if (name := each.get("pods", {}).get("metric", {}).get("name"))
    }
    assert names
    exported = (ROOT / "fleet/gateway/record/metrics.py").read_text()
    assert all(f'"{name}"' in exported for name in names)


def test_hadolint_has_nothing_to_say_of_the_images():
    assert run(tool("hadolint"), DEPLOY / "containers" / "Dockerfile") == ""


@pytest.mark.parametrize("script", sorted(DEPLOY.rglob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_scripts(script):
    run("sh", "-n", script)


def compose() -> dict:
    return yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())


def test_compose_names_files_that_are_there(tmp_path):
    services = compose()["services"]
    mounts = [mount.partition(":")[0] for each in services.values() for mount in each.get("volumes", [])]
    named = [mount for mount in mounts if mount.startswith(".")]
    assert named
    assert not [mount for mount in named if not (DEPLOY / "compose" / mount).exists()]
    targets = set(
        re.findall(r"^FROM \S+ AS (\S+)", (DEPLOY / "containers/Dockerfile").read_text(), re.MULTILINE)
    )
    builds = [each["build"] for each in services.values() if "build" in each]
    assert {build["target"] for build in builds} <= targets
    assert all((DEPLOY / "compose" / build["context"] / build["dockerfile"]).is_file() for build in builds)


def test_compose_s_secrets_and_settings_make_a_fleet(tmp_path, monkeypatch):
    for name in ("secrets.sh", "cortex.toml", "models.toml"):
        (tmp_path / name).write_bytes((DEPLOY / "compose" / name).read_bytes())
    for _ in range(2):
        subprocess.run(["sh", tmp_path / "secrets.sh"], check=True)
    made = dict(line.split("=", 1) for line in (tmp_path / "secrets.env").read_text().splitlines())
    assert {path.name for path in (tmp_path / "secrets").iterdir()} == set(compose()["secrets"])
    monkeypatch.delenv("CORTEX_STATE_DIR")
    for name, value in made.items():
        monkeypatch.setenv(name, value)
    config = load_config(tmp_path / "cortex.toml")
    (node,) = config.neurons
    assert node.token == made["NEURON_TOKEN"]
    assert made["POSTGRES_PASSWORD"] in config.database.url
    assert (
        json.loads(made["CORTEX_NEURONS"])[0]["endpoint"].partition("//")[2].partition(":")[0]
        in compose()["services"]
    )


def test_docker_compose_takes_it(tmp_path):
    docker = tool("docker")
    if subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker has no compose here")
    folder: Path = tmp_path / "deploy"
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            (folder / path.relative_to(DEPLOY)).parent.mkdir(parents=True, exist_ok=True)
            (folder / path.relative_to(DEPLOY)).write_bytes(path.read_bytes())
    run("sh", folder / "compose" / "secrets.sh")
    for files in (["compose.yaml"], ["compose.yaml", "cpu.yaml"]):
        named = [part for file in files for part in ("--file", folder / "compose" / file)]
        run(docker, "compose", *named, "config", "--quiet")
