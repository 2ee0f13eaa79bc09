"""The Celery application: it runs lifecycle operations, polling, roll-ups and pruning.

A message carries only an operation's id; the database holds the truth. Messages may therefore get lost or
arrive twice: `execution.reconcile` sends lost ones again, and only the worker that holds an operation's lease
runs it. Results are not stored.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery.signals import setup_logging
from kombu import Queue

from cortex_site.base import logs

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cortex_site.site.settings")

from django.conf import settings

OPERATIONS = "operations"


def broker_url(url: str) -> str:
    """kombu's spelling of a Redis URL: it says `redis+socket://` where redis-py says `unix://`."""
    return url.replace("unix://", "redis+socket://", 1).replace("?db=", "?virtual_host=", 1)


app = Celery("cortex")
app.conf.update(
    broker_url=broker_url(settings.REDIS_URL),
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={
        "visibility_timeout": 60,
        "polling_interval": 1,
        "socket_connect_timeout": 2,
        "socket_timeout": 5,
        # Sending gives up at once, since a lost message is sent again; receiving never does.
        "max_retries": 1,
        "interval_start": 0,
        "interval_step": 0,
    },
    task_serializer="json",
    accept_content=["json"],
    task_ignore_result=True,
    result_expires=None,  # there are none, and so nothing to clean up every night
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    # Loads take minutes: large fleets give them workers of their own with `-Q operations`.
    task_queues=[Queue("cortex"), Queue(OPERATIONS)],
    task_default_queue="cortex",
    task_publish_retry=False,
    beat_scheduler="django_celery_beat.schedulers:DatabaseScheduler",
    timezone="UTC",
    enable_utc=True,
    imports=["fleet.tasks"],
)


@setup_logging.connect
def _log_like_everyone(**_: Any) -> None:
    logs.setup("info", "celery")
