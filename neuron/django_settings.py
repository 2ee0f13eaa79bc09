"""The Django settings of neuron's API."""

from __future__ import annotations

from django.conf import settings


def configure() -> None:
    """Configure Django without database, apps or URL resolver; to be called before ninja is imported.

    A process that configured Django already, such as the test suite, keeps its settings.
    """
    if not settings.configured:
        settings.configure(DEBUG=False, ALLOWED_HOSTS=["*"], USE_I18N=False, USE_TZ=True, LOGGING_CONFIG=None)
