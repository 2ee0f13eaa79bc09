from __future__ import annotations

from django.conf import settings


def configure() -> None:
    """Django for an API without database, apps or URL resolver; must run before ninja is imported.

    A process that has set Django up already (the test suite) keeps its settings.
    """
    if not settings.configured:
        settings.configure(DEBUG=False, ALLOWED_HOSTS=["*"], USE_I18N=False, USE_TZ=True, LOGGING_CONFIG=None)
