"""gunicorn as a small site would run it: several processes, so nothing kept in one of them is shared."""

import logging
import os
import sys
from pathlib import Path

wsgi_app = "shop.wsgi:application"
# A search path rather than chdir, so that relative paths in SHOP_* still mean the caller's directory.
pythonpath = str(Path(__file__).resolve().parent)

bind = os.environ.get("SHOP_BIND") or sys.exit("set SHOP_BIND to an address, for example SHOP_BIND=127.0.0.1:8000")
workers = 2
threads = 2
# Short on purpose: a proxy that keeps its upstream connections longer than this meets a closed one.
keepalive = 2
# Tests stop the server often, and nothing in the shop takes longer than three seconds.
graceful_timeout = 4

errorlog = "-"
loglevel = "error"
# Django answers HEAD with a body and leaves it to the server to drop it.
# gunicorn warns about that each time, whatever the log level.
logging.getLogger("gunicorn.http.wsgi").setLevel(logging.ERROR)
# The control socket lives at one place per user: servers started by parallel tests would collide on it.
control_socket_disable = True
