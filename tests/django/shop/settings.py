"""A typical small site, with every path taken from the environment so that parallel tests share nothing."""

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from common import *  # noqa: F403
from common import MIDDLEWARE, errors_of, sqlite

BASE_DIR = Path(__file__).resolve().parent

if not os.environ.get("SHOP_DB"):
    raise ImproperlyConfigured("set SHOP_DB to the path of the SQLite file, for example SHOP_DB=/tmp/shop/db.sqlite3")
DATABASE_FILE = Path(os.environ["SHOP_DB"]).resolve()

ROOT_URLCONF = "shop.urls"
WSGI_APPLICATION = "shop.wsgi.application"

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "rest_framework.authtoken",
    "shop",
]

# Outside of everything that adds to Vary, which is how real sites come to erase it.
MIDDLEWARE = MIDDLEWARE[:3] + ["shop.middleware.VaryEraser"] + MIDDLEWARE[3:]

DATABASES = sqlite(DATABASE_FILE)

# On disk because the workers must share it: with a cache per process, cache_page would answer differently by worker.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
        "LOCATION": DATABASE_FILE.with_name(DATABASE_FILE.name + ".cache"),
    }
}

LOGIN_REDIRECT_URL = "/greeting/"
LOGOUT_REDIRECT_URL = "/plain/"

REST_FRAMEWORK = {
    # Token first: a request with a token never touches the session, hence its answer carries no "Vary: Cookie".
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "rest_framework.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticatedOrReadOnly"],
}

LANGUAGES = [("en", "English"), ("de", "Deutsch"), ("fr", "Français")]

STATIC_ROOT = Path(os.environ.get("SHOP_STATIC") or DATABASE_FILE.with_name("collected-static")).resolve()
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
MEDIA_ROOT = BASE_DIR / "media"

HIT_LOG = os.environ.get("SHOP_LOG")

LOGGING = errors_of("django")
