"""The ASGI application on the control port: admin and operator API over HTTP, live page over WebSocket."""

from __future__ import annotations

import os

from django.core.asgi import get_asgi_application

from cortex_site.base import logs

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cortex_site.site.settings")
logs.setup("info", "admin")
http = get_asgi_application()  # sets Django up, and what is imported below reaches its registry

from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.urls import path  # noqa: E402

from fleet.api.live import FleetConsumer  # noqa: E402

websocket = AllowedHostsOriginValidator(
    AuthMiddlewareStack(URLRouter([path("ws/fleet", FleetConsumer.as_asgi())]))
)
application = ProtocolTypeRouter({"http": http, "websocket": websocket})
