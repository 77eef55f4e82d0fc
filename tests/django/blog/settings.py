"""A typical small Wagtail site, with every path and address taken from the environment, as in the shop."""

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from common import *  # noqa: F403
from common import errors_of, sqlite

if not os.environ.get("BLOG_DB"):
    raise ImproperlyConfigured("set BLOG_DB to the path of the SQLite file, for example BLOG_DB=/tmp/blog/db.sqlite3")
DATABASE_FILE = Path(os.environ["BLOG_DB"]).resolve()

# Where visitors find the site: the URLs that Wagtail purges are made from it, so it must be what they send as Host.
HOST, _, PORT = (os.environ.get("BLOG_HOST") or "localhost:8080").partition(":")
PORT = int(PORT or 80)

ROOT_URLCONF = "blog.urls"
WSGI_APPLICATION = "blog.wsgi.application"

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

DATABASES = sqlite(DATABASE_FILE)

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

# Wagtail says there, and only there, that a purge failed.
LOGGING = errors_of("django", "wagtail")
