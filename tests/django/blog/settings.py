"""A typical small Wagtail site, with every path and address taken from the environment, as in the shop."""

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

if not os.environ.get("BLOG_DB"):
    raise ImproperlyConfigured("set BLOG_DB to the path of the SQLite file, for example BLOG_DB=/tmp/blog/db.sqlite3")
DATABASE_FILE = Path(os.environ["BLOG_DB"]).resolve()

# Where visitors find the site: the URLs that Wagtail purges are made from it, so it must be what they send as Host.
HOST, _, PORT = (os.environ.get("BLOG_HOST") or "localhost:8080").partition(":")
PORT = int(PORT or 80)

SECRET_KEY = "a-fixed-key-for-tests-only-never-for-a-site"
DEBUG = False
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "blog.urls"
WSGI_APPLICATION = "blog.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "blog",
    "wagtail.contrib.frontend_cache",
    # No page here has a document or an image, but the admin does not work without these two.
    "wagtail.documents",
    "wagtail.images",
    "wagtail.users",
    "wagtail.admin",
    "wagtail",
    "taggit",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]

MIDDLEWARE = [
    # First, so that it sees every request, those answered by another middleware included.
    "shop.middleware.HitLog",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
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
    }
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DATABASE_FILE,
        "OPTIONS": {
            # Several processes write. Without these, a session write beside an edit ends in "database is locked".
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }
}

# A real hasher costs a third of a second per login, and this password guards nothing.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

TIME_ZONE = "UTC"
USE_TZ = True
LANGUAGE_CODE = "en"

STATIC_URL = "/static/"
# The files of the admin from where they are installed: collecting them would take longer than the tests.
WHITENOISE_USE_FINDERS = True

WAGTAIL_SITE_NAME = "blog"
WAGTAILADMIN_BASE_URL = f"http://{HOST}:{PORT}"
WAGTAILFRONTENDCACHE = {}
if os.environ.get("BLOG_CACHE"):
    WAGTAILFRONTENDCACHE["default"] = {
        "BACKEND": "wagtail.contrib.frontend_cache.backends.HTTPBackend",
        "LOCATION": os.environ["BLOG_CACHE"],
    }
# A form without them is shorter, and nobody comments on tests.
WAGTAILADMIN_COMMENTS_ENABLED = False
WAGTAIL_WORKFLOW_ENABLED = False
# An editor's browser would ask other hosts for these.
WAGTAIL_ENABLE_UPDATE_CHECK = False
WAGTAIL_ENABLE_WHATS_NEW_BANNER = False
WAGTAIL_GRAVATAR_PROVIDER_URL = None

HIT_LOG = os.environ.get("BLOG_LOG")

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "loggers": {
        "django": {"handlers": ["stderr"], "level": "ERROR", "propagate": False},
        # Says here, and only here, that a purge failed.
        "wagtail": {"handlers": ["stderr"], "level": "ERROR", "propagate": False},
    },
}
