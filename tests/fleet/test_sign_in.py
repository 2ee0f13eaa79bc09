"""Signing in to the admin: a brake on guesses, and what a TLS proxy in front changes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.test import override_settings

ROOT = Path(__file__).parents[2]
PAGE = "/admin/login/"
# Django's own takes a quarter of a second for each guess, on purpose.
QUICK = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def sign_in(client_for, db):
    def post(password: str, address: str = "127.0.0.1", **headers):
        form = {"username": "root", "password": password, "next": "/admin/"}
        return client_for().post(PAGE, form, REMOTE_ADDR=address, headers=headers)

    with override_settings(PASSWORD_HASHERS=QUICK):
        get_user_model().objects.create_superuser("root", password="right-and-long")
        yield post


def test_guesses_are_slowed_down_for_their_address_alone(sign_in):
    statuses = [sign_in("wrong").status_code for _ in range(settings.AXES_FAILURE_LIMIT)]
    assert statuses == [200] * (settings.AXES_FAILURE_LIMIT - 1) + [429]
    assert sign_in("right-and-long").status_code == 429
    assert sign_in("right-and-long", "192.0.2.9").status_code == 302


def test_a_right_password_forgets_the_wrong_ones(sign_in):
    for _ in range(2):
        for _ in range(settings.AXES_FAILURE_LIMIT - 1):
            assert sign_in("wrong").status_code == 200
        assert sign_in("right-and-long").status_code == 302


def test_a_forwarded_address_counts_behind_a_proxy_alone(sign_in, monkeypatch):
    def guess(number: int) -> int:
        return sign_in("wrong", **{"x-forwarded-for": f"spoofed, 192.0.2.{number}"}).status_code

    monkeypatch.setattr(settings, "SECURE_PROXY_SSL_HEADER", ("HTTP_X_FORWARDED_PROTO", "https"))
    limit = settings.AXES_FAILURE_LIMIT
    assert 429 not in {guess(number) for number in range(limit + 1)}
    monkeypatch.setattr(settings, "SECURE_PROXY_SSL_HEADER", None)
    assert 429 in {guess(number) for number in range(limit + 1)}


def test_the_example_for_tls_passes_djangos_own_deployment_check(tmp_path):
    environment = os.environ | {
        "CORTEX_CONFIG": str(ROOT / "deploy" / "cortex.tls.example.toml"),
        "CORTEX_STATE_DIR": str(tmp_path),
        "DJANGO_SETTINGS_MODULE": "cortex_site.site.settings",
    }
    command = [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"]
    told = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr


LINKS = """
import asyncio
import django
django.setup()
from django.core.management import call_command
from django.test import AsyncClient
call_command("migrate", verbosity=0)
async def get(path, scheme):
    return await AsyncClient().get(path, headers={"x-forwarded-proto": scheme})
async def main():
    for path in ("/admin/login/", "/cortex/admin/login/"):  # a proxy takes the prefix away, or leaves it
        page = await get(path, "https")
        links = "/cortex/static/admin" in page.content.decode()
        print(page.status_code, links, page.headers.get("Strict-Transport-Security"))
    root = await get("/cortex/", "https")
    print(root.status_code, root.headers["location"])
    plain = await get("/cortex/admin/login/", "http")
    print(plain.status_code, plain.headers["location"])
asyncio.run(main())
"""


def test_pages_below_a_path_link_below_it(tmp_path):
    environment = os.environ | {
        "CORTEX_CONFIG": str(ROOT / "deploy" / "cortex.tls.example.toml"),
        "CORTEX_STATE_DIR": str(tmp_path),
        "CORTEX_ADMIN__ALLOWED_HOSTS": '["testserver"]',
        "DJANGO_SETTINGS_MODULE": "cortex_site.site.settings",
    }
    told = subprocess.run(
        [sys.executable, "-c", LINKS], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert told.stdout.splitlines() == [
        "200 True max-age=31536000",
        "200 True max-age=31536000",
        "302 /cortex/admin/",
        "301 https://testserver/cortex/admin/login/",
    ], told.stderr
