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
from django.conf import settings  # noqa: E402
from django.urls import path  # noqa: E402

from fleet.api.live import FleetConsumer  # noqa: E402

# A proxy may leave the prefix or take it away, as Django allows for HTTP.
prefixes = {"", settings.CONFIG.admin.path_prefix.lstrip("/")}
live = [path(f"{prefix}/ws/fleet".lstrip("/"), FleetConsumer.as_asgi()) for prefix in sorted(prefixes)]
websocket = AllowedHostsOriginValidator(AuthMiddlewareStack(URLRouter(live)))
application = ProtocolTypeRouter({"http": http, "websocket": websocket})
