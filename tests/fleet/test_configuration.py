from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.contrib.auth import get_user_model
from django.db import transaction
from django.test import Client, override_settings

from cortex_site.config.cortex_toml import CortexConfig
from cortex_site.config.models_toml import Catalogue
from fleet.announcements import CONFIGURATION, _redis
from fleet.models import Alias, ApiKey, ModelProfile, Node
from fleet.services import configuration, keys, settings_sync
from fleet.snapshot import KeyView, NodeConfig, ProfileView

pytestmark = pytest.mark.usefixtures("db")

CONFIG = CortexConfig(neurons=[{"name": "beast", "endpoint": "http://beast:13131/", "token": "secret"}])
CATALOGUE = Catalogue(
    models=[
        {
            "id": "qwen",
            "limit": {"context": 8192, "output": 1024},
            "cost": {"input": 0.5, "output": 0},
            "capabilities": ["chat", "tools"],
            "vram_mb": 9000,
        },
        {"id": "plain"},
    ],
    aliases={"best": "qwen"},
)


def test_the_files_reach_the_data_plane():
    settings_sync.sync_files(CONFIG, CATALOGUE)
    read = configuration.read()
    assert read.nodes == {"beast": NodeConfig("beast", "http://beast:13131", "secret")}
    assert read.profiles == {
        "qwen": ProfileView("qwen", 8192, 1024, ("chat", "tools"), {"input": 0.5, "output": 0.0}),
        "plain": ProfileView("plain"),
    }
    assert read.aliases == {"best": "qwen"}
    assert read.keys == {}
    assert not read.has_keys
    assert read.version == configuration.version() > 0


def test_a_file_names_what_drafts():
    for speculation in ("mtp", "someone/a-smaller-model-of-the-same-vocabulary"):
        settings_sync.sync_files(CONFIG, Catalogue(models=[{"id": "m", "speculation": speculation}]))
        assert ModelProfile.objects.get().speculation == speculation


def test_syncing_twice_changes_nothing():
    settings_sync.sync_files(CONFIG, CATALOGUE)
    before = configuration.version()
    settings_sync.sync_files(CONFIG, CATALOGUE)
    assert configuration.version() == before


def test_rows_that_a_file_no_longer_names_go_and_the_admins_stay():
    settings_sync.sync_files(CONFIG, CATALOGUE)
    Node.objects.create(name="mine", endpoint="http://mine:1")
    ModelProfile.objects.create(model_id="mine")
    settings_sync.sync_files(CortexConfig(), Catalogue(models=[{"id": "plain", "vram_mb": 5}]))
    assert [node.name for node in Node.objects.all()] == ["mine"]
    assert {row.model_id: row.vram_mb for row in ModelProfile.objects.all()} == {"mine": None, "plain": 5}
    assert Alias.objects.count() == 0


def test_a_row_of_the_admin_that_a_file_names_becomes_the_files():
    Node.objects.create(name="beast", endpoint="http://other:1")
    settings_sync.sync_files(CONFIG, CATALOGUE)
    node = Node.objects.get()
    assert (node.endpoint, node.from_file) == ("http://beast:13131", True)


@pytest.mark.parametrize(
    "change",
    [
        lambda: Node.objects.create(name="n", endpoint="http://n:1"),
        lambda: Alias.objects.create(name="a", target="m"),
        lambda: ModelProfile.objects.create(model_id="m"),
        lambda: keys.create("k"),
        lambda: Alias.objects.get(name="old").delete(),
        lambda: Alias.objects.all().delete(),
        lambda: keys.disable("old"),
    ],
)
def test_every_change_moves_the_version_and_is_announced(change):
    Alias.objects.create(name="old", target="m")
    keys.create("old")
    before = configuration.version()
    listener = _redis().pubsub()
    listener.subscribe(CONFIGURATION)
    listener.get_message(timeout=5)
    change()
    assert configuration.version() > before
    assert listener.get_message(timeout=5)["data"] == str(configuration.version()).encode()
    listener.close()


def test_a_poll_does_not_move_the_version():
    Node.objects.create(name="n", endpoint="http://n:1")
    before = configuration.version()
    Node.objects.update(healthy=True)
    assert configuration.version() == before


def test_a_change_that_is_rolled_back_moves_nothing():
    before = configuration.version()
    with transaction.atomic():
        Alias.objects.create(name="a", target="m")
        transaction.set_rollback(True)
    assert configuration.version() == before


def test_a_change_without_redis_is_still_made():
    _redis.cache_clear()
    with override_settings(REDIS_URL="unix:///nowhere/redis.sock"):
        Alias.objects.create(name="a", target="m")
    _redis.cache_clear()
    assert configuration.version() == 1


def test_keys_are_known_by_digest_and_shown_once():
    expires = datetime(2030, 1, 1, tzinfo=UTC)
    row, key = keys.create("client", models=["qwen*"], expires_at=expires)
    _, gone = keys.create("gone")
    assert keys.disable("gone")
    assert not keys.disable("unknown")
    read = configuration.read()
    view = KeyView("client", keys.digest(key), ("qwen*",), expires.timestamp())
    assert read.keys[keys.digest(key)] == view
    assert [view.name for view in read.keys.values() if view.disabled] == ["gone"]
    assert read.has_keys
    assert key.startswith(row.prefix)
    assert len(row.prefix) < len(key) / 2
    assert not ApiKey.objects.filter(digest__contains=key).exists()
    assert gone != key


def test_protected_mode_does_not_come_back_with_the_last_disabled_key():
    keys.create("only")
    keys.disable("only")
    assert configuration.read().has_keys
    assert all(view.disabled for view in configuration.read().keys.values())


def test_an_admin_that_deletes_in_bulk_moves_the_version_too():
    get_user_model().objects.create_superuser("root", password="x")
    browser = Client()
    browser.force_login(get_user_model().objects.get())
    alias = Alias.objects.create(name="a", target="m")
    before = configuration.version()
    browser.post(
        "/admin/fleet/alias/",
        {"action": "delete_selected", "_selected_action": alias.pk, "post": "yes"},
        headers={"host": "localhost"},
    )
    assert not Alias.objects.exists()
    assert configuration.version() > before
