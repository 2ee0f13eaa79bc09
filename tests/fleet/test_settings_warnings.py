"""The same warnings where an operator looks: on the admin's first page and in the operator API."""

from __future__ import annotations

import pytest
from django.conf import settings

from cortex_site.base.secret_file import obtain
from cortex_site.config.cortex_toml import CortexConfig
from fleet.services import settings_warnings
from fleet.services.settings_sync import sync_files


@pytest.fixture
def models(monkeypatch, tmp_path):
    """A models.toml of the running configuration."""
    path = tmp_path / "models.toml"
    monkeypatch.setattr(settings_warnings, "current", lambda: CortexConfig(models_config=path))
    return path


def test_contradictions_are_on_the_admins_first_page(fleet, staff, client_for, models):
    fleet.node("a", devices=[8000])
    models.write_text('[[models]]\nid = "m"\nmin_devices = 2\npinned_on = ["a", "<b>"]\n')
    page = staff.get("/admin/").content.decode()
    assert f"{models}:3: models.0.min_devices: needs 2 devices" in page
    assert "there is no node &#x27;&lt;b&gt;&#x27;" in page
    operator = client_for(headers={"authorization": f"Bearer {obtain(settings.OPERATOR_TOKEN_FILE)}"})
    assert operator.get("/api/warnings").json() == settings_warnings.found()
    assert client_for().get("/api/warnings").status_code == 401
    models.write_text('[[models]]\nid = "m"\n')
    assert "messagelist" not in staff.get("/admin/").content.decode()


def test_a_file_that_broke_meanwhile_is_a_warning_too(staff, models):
    models.write_text("[[models]]\nid = 3\n")
    assert f"{models}:2: models.0.id" in staff.get("/admin/").content.decode()


def test_a_model_of_the_admin_is_checked_too(fleet, models):
    models.write_text("")
    fleet.node("a", devices=[8000])
    fleet.model("m", min_devices=2, pinned_on=["moon", "a"])
    fleet.model("n", vram_mb=8000)
    assert settings_warnings.found() == [
        "model m: pinned_on: there is no node 'moon': m is not loaded before it is there",
        "model m: min_devices: needs 2 devices; the most that a node has is 1",
    ]


def test_a_file_with_contradictions_is_loaded(db, models):
    from cortex_site.config import load_catalogue
    from fleet.models import Alias, ModelProfile

    models.write_text(
        '[[models]]\nid = "m"\nvram_mb = 1\n[[models]]\nid = "m"\n[aliases]\nm = "m"\nbig = "zz"\n'
    )
    config = CortexConfig(models_config=models)
    sync_files(config, load_catalogue(config))
    assert ModelProfile.objects.get().vram_mb == 1
    assert [alias.name for alias in Alias.objects.all()] == ["big"]
