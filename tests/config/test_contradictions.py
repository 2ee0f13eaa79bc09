"""A models.toml that contradicts itself or the fleet: loaded, with a warning that names file and line."""

from __future__ import annotations

import json

import pytest

from cortex_site.cli.check import describe
from cortex_site.config import load_catalogue, load_config
from cortex_site.config.contradictions import KnownNode, warnings

NODES = """
[[neurons]]
name = "a"
endpoint = "http://a:1"
[[neurons]]
name = "cloud"
kind = "openai"
base_url = "https://cloud/v1"
"""
SMALL = KnownNode("a", devices_mb=(8000, 8000), harnesses=frozenset({"torch"}), labels=frozenset({"fast"}))
NEW = KnownNode("new")  # it has said nothing yet

# what a profile says beside its id; line and key; words of the warning
PROFILES = [
    ('pinned_on = ["moon"]', "pinned_on", "there is no node 'moon'"),
    ('pinned_on = ["cloud"]', "pinned_on", "nothing is loaded there"),
    ("replicas = 2", "replicas", "2 replicas, but there are 1 node(s)"),
    ('pinned_on = ["a", "a"]\nreplicas = 2', "replicas", "2 replicas, but pinned_on names 1 node(s)"),
    ("min_devices = 3", "min_devices", "needs 3 devices; the most that a node has is 2"),
    ("min_device_vram_mb = 9000", "min_device_vram_mb", "needs a device of 9000 MiB; the largest has 8000"),
    ("vram_mb = 17000", "vram_mb", "needs 17000 MiB; the most that a node has is 16000"),
    ('harness = "vllm"', "harness", "no node has 'vllm'; there is torch"),
    ('labels = ["fast", "large"]', "labels", "no node has fast, large: m is loaded nowhere"),
    ("tensor_parallel = 4", "tensor_parallel", "needs 4 devices; the most that a node has is 2"),
    ("tensor_parallel = 1\nmin_devices = 2", "min_devices", "tensor_parallel says 1"),
    ("options = { seed = 1 }", "options", "the harness is 'torch'"),
    ("pinned = true\nttl_s = 60", "ttl_s", "means nothing"),
    ("pinned = true\nresidency_priority = 5", "residency_priority", "protects nothing"),
    ("ttl_s = 60\nmin_residency_s = 61", "min_residency_s", "leaves after 60 s"),
    ("limit = { context = 10, output = 11 }", "limit", "does not fit a context of 10"),
]
ALIASES = [
    ('other = "zz"', "other", "no model 'zz'"),
    ('m = "n"', "m", "the model is meant"),
    ('first = "m"\nsecond = "first"', "second", "followed once"),
]


@pytest.fixture
def files(tmp_path):
    """The configuration and the catalogue that these texts make."""

    def make(models: str, more: str = ""):
        (tmp_path / "models.toml").write_text(models)
        (tmp_path / "cortex.toml").write_text('models_config = "models.toml"\n' + more + NODES)
        config = load_config(tmp_path / "cortex.toml")
        return config, load_catalogue(config)

    return make


@pytest.mark.parametrize(("text", "key", "words"), PROFILES)
def test_a_profile_that_contradicts(files, tmp_path, text, key, words):
    body = f'# models\n[[models]]\nid = "first"\n\n[[models]]\nid = "m"\n{text}\n'
    (found,) = warnings(*files(body), [SMALL])
    line = next(number for number, line in enumerate(body.splitlines(), 1) if line.startswith(key))
    assert found.startswith(f"{tmp_path}/models.toml:{line}: models.1.{key}: ")
    assert words in found


@pytest.mark.parametrize(
    ("model", "profile", "problem"),
    [
        ({"model_type": "bloom", "n_head": 8}, "", "models of the family bloom are not split over devices"),
        ({"text_config": {"model_type": "opt"}}, "", "of the family opt"),
        ({"model_type": "llama", "num_attention_heads": 3}, "", "num_attention_heads is 3, which"),
        ({"model_type": "llama", "num_attention_heads": 8}, "", None),
        ({"model_type": "bloom"}, 'harness = "vllm"', None),  # which has ways of its own
        ({"model_type": ["bloom"]}, "", None),
    ],
)
def test_a_split_that_the_model_does_not_allow(files, tmp_path, model, profile, problem):
    (tmp_path / "config.json").write_text(json.dumps(model))
    body = f'[[models]]\nid = "m"\nsource = "{tmp_path}"\ntensor_parallel = 2\n{profile}\n'
    found = warnings(*files(body))
    if problem is None:
        assert found == []
    else:
        assert found[0].startswith(
            f"{tmp_path}/models.toml:4: models.0.tensor_parallel: {tmp_path}/config.json: "
        )
        assert problem in found[0]


@pytest.mark.parametrize(("text", "name", "words"), ALIASES)
def test_an_alias_that_contradicts(files, tmp_path, text, name, words):
    config, catalogue = files(f'[[models]]\nid = "m"\n[[models]]\nid = "n"\n[aliases]\n{text}\n')
    (found,) = warnings(config, catalogue)
    line = 5 + len(text.splitlines())
    assert found.startswith(f"{tmp_path}/models.toml:{line}: aliases.{name}: ")
    assert words in found
    assert ("m" in catalogue.other_names) is False


def test_of_models_under_one_id_the_first_is_kept(files, tmp_path):
    config, catalogue = files('[[models]]\nid = "m"\nvram_mb = 1\n[[models]]\nid = "m"\nvram_mb = 2\n')
    assert [profile.vram_mb for profile in catalogue.profiles] == [1]
    (found,) = warnings(config, catalogue)
    assert found == f"{tmp_path}/models.toml:5: models.1.id: 'm' is there already; this one is left out"


def test_priorities_that_decide_nothing(files):
    models = '[[models]]\nid = "m"\n[[models]]\nid = "n"\nresidency_priority = 100\n'
    strategy = '[eviction]\nstrategy = "priority"\n'
    assert ['evicts as "lru" does' in found for found in warnings(*files(models, strategy))] == [True]
    assert warnings(*files(models)) == []
    assert warnings(*files(models.replace("100", "200"), strategy)) == []


def test_a_node_that_has_said_nothing_may_be_larger(files):
    config, catalogue = files('[[models]]\nid = "m"\nmin_devices = 3\nreplicas = 2\n')
    assert warnings(config, catalogue, [SMALL, NEW]) == []


def test_nothing_is_said_of_what_is_well(files):
    text = (
        '[[models]]\nid = "m"\nsource = "x"\nvram_mb = 16000\nmin_devices = 2\nttl_s = 60\npinned_on = []\n'
    )
    assert warnings(*files(text + '[aliases]\nbig = "m"\n'), [SMALL]) == []


def test_check_says_them(files, tmp_path):
    lines = list(describe(*files('[[models]]\nid = "m"\npinned_on = ["moon"]\n[aliases]\nm = "m"\n')))
    assert "server cloud at https://cloud/v1" in lines
    found = [line for line in lines if line.startswith("warning: ")]
    assert [line.split(": ")[1] for line in found] == [f"{tmp_path}/models.toml:{n}" for n in (3, 5)]
