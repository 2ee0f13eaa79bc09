from __future__ import annotations

import os

from django.conf import settings


def configure() -> None:
    """Django for an API without database, apps or URL resolver; must run before ninja is imported.

    A process that has Django settings of its own (the test suite) keeps them.
    """
    if not settings.configured and not os.environ.get("DJANGO_SETTINGS_MODULE"):
        settings.configure(DEBUG=False, ALLOWED_HOSTS=["*"], USE_I18N=False, USE_TZ=True, LOGGING_CONFIG=None)
