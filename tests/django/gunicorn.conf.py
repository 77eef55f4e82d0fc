"""gunicorn as a small site would run it: several processes, so nothing kept in one of them is shared."""

import logging
import os
import sys
from pathlib import Path

# The application is the one that was given an address.
addresses = {name: os.environ.get(f"{name.upper()}_BIND") for name in ("shop", "blog")}
application = next((name for name, address in addresses.items() if address), None)
if not application:
    sys.exit("set SHOP_BIND or BLOG_BIND to an address, for example SHOP_BIND=127.0.0.1:8000")
bind = addresses[application]
wsgi_app = f"{application}.wsgi:application"
# A search path rather than chdir, so that relative paths in the environment still mean the caller's directory.
pythonpath = str(Path(__file__).resolve().parent)

workers = 2
threads = 2
# Short on purpose: a proxy that keeps its upstream connections longer than this meets a closed one.
keepalive = 2
# Tests stop the server often, and nothing in them takes longer than three seconds.
graceful_timeout = 4

errorlog = "-"
loglevel = "error"
# Django answers HEAD with a body and leaves it to the server to drop it.
# gunicorn warns about that each time, whatever the log level.
logging.getLogger("gunicorn.http.wsgi").setLevel(logging.ERROR)
# The control socket lives at one place per user: servers started by parallel tests would collide on it.
control_socket_disable = True
