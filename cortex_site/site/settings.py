"""Django's settings, derived from `cortex.toml` and the environment."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cortex_site import config as configuration
from cortex_site.base.secret_file import obtain

CONFIG = configuration.current()
HOME = CONFIG.home

DEBUG = False
SECRET_KEY = obtain(HOME / "secret_key")
OPERATOR_TOKEN_FILE = HOME / "operator_token"
ALLOWED_HOSTS = CONFIG.admin.allowed_hosts
CSRF_TRUSTED_ORIGINS = CONFIG.admin.csrf_trusted_origins
SESSION_COOKIE_NAME = "cortex_session"  # cookies ignore ports: installations on one host must differ
CSRF_COOKIE_NAME = "cortex_csrf"

if CONFIG.admin.path_prefix:
    FORCE_SCRIPT_NAME = SESSION_COOKIE_PATH = CSRF_COOKIE_PATH = CONFIG.admin.path_prefix
if CONFIG.admin.behind_tls_proxy:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
    SECURE_HSTS_SECONDS = CONFIG.admin.hsts_s
    # Other programs have other names below this domain: they and browsers' lists are their owner's decision.
    SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]

# The brake on sign-ins: django-axes counts failures in the database, which a failure to reach Redis leaves.
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
AXES_FAILURE_LIMIT = CONFIG.admin.sign_in_attempts
AXES_COOLOFF_TIME = timedelta(seconds=CONFIG.admin.sign_in_pause_s)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_CLIENT_IP_CALLABLE = "cortex_site.site.client_address.client_address"
AXES_RESET_ON_SUCCESS = True
AXES_DISABLE_ACCESS_LOG = True
AXES_ENABLE_ADMIN = False
AXES_HTTP_RESPONSE_CODE = 429
AXES_VERBOSE = False

# Not daphne: it would only change `runserver`, and bring twisted into every process.
INSTALLED_APPS = [
    "fleet",  # before the admin, whose templates it extends
    "cortex_site.site.admin_config.FleetAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "channels",
    "django_celery_beat",
    "ninja",
    "axes",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "cortex_site.site.compression.PageCompression",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
ROOT_URLCONF = "cortex_site.site.urls"
ASGI_APPLICATION = "cortex_site.site.asgi.application"
LOGGING_CONFIG = None  # each process calls logs.setup
USE_TZ = True
TIME_ZONE = "UTC"
USE_I18N = False
FORMAT_MODULE_PATH = ["cortex_site.site.formats"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = f"{CONFIG.admin.path_prefix}/static/"
WHITENOISE_USE_FINDERS = True  # straight from the packages: there is no collectstatic step
WHITENOISE_AUTOREFRESH = False
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]


def database(url: str, home: Path) -> dict[str, Any]:
    """Django's description of the database at `url`; empty: SQLite under `home`."""
    if not url:
        # WAL lets readers go on while one writes; IMMEDIATE takes the write lock at BEGIN, so that a
        # transaction waits for its turn instead of failing half-way.
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": home / "cortex.sqlite3",
            "OPTIONS": {
                "timeout": 20,
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            },
        }
    if urlsplit(url).scheme not in {"postgresql", "postgres"}:
        raise ValueError("database.url must be postgresql://…, or empty for SQLite")
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415 - an extra: absent where SQLite is used

    parts = conninfo_to_dict(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.pop("dbname", "cortex"),
        "OPTIONS": {"connect_timeout": 5, **parts},
    }


DATABASES = {"default": database(CONFIG.database.url, HOME)}
REDIS_URL = CONFIG.redis.url
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": [{"address": REDIS_URL}]},
    }
}

# How lifecycle operations run.
LOAD_TIMEOUT_S = CONFIG.lifecycle.load_timeout_s
UNLOAD_TIMEOUT_S = 120.0
MEMORY_WAIT_S = 30.0  # until an evicted model's memory is free
NODE_CALL_TIMEOUT_S = 5.0  # of any other call to a node
CAPACITY_WAIT_S = CONFIG.lifecycle.capacity_wait_s
SWAP_WAIT_S = CONFIG.lifecycle.swap_wait_s
DRAIN_GRACE_S = CONFIG.lifecycle.drain_grace_s
EVICTION_STRATEGY = CONFIG.eviction.strategy
READ_AHEAD_KEYS = CONFIG.lifecycle.read_ahead_keys
MIN_RESIDENCY_S = CONFIG.lifecycle.min_residency_s
NODE_WAIT_S = CONFIG.lifecycle.node_wait_s
FAILURE_BACKOFF_S = CONFIG.lifecycle.failure_backoff_s
LOOK_EVERY_S = 0.25  # poll of a node that loads or unloads
HEARTBEAT_S = 2.0
LEASE_S = 10.0  # an operation without a heartbeat for this long has no owner
MAX_ATTEMPTS = 3  # of one operation, when its workers die

LIVE_INTERVAL_S = 2.0  # between database reads for open live pages
