"""What stands around the views: the record of what Django really ran, and one well-known mistake."""

import os

from django.conf import settings


def requested_target(request):
    """The request target as it arrived, so that "/a" and "/a?" stay two different things."""
    return request.META.get("RAW_URI") or request.get_full_path()


# With one of these a client asks whether what it has still holds.
CONDITIONS = {"HTTP_IF_NONE_MATCH", "HTTP_IF_MODIFIED_SINCE"}


class HitLog:
    """Appends "METHOD TARGET", or "METHOD TARGET conditional", to the hit log for every request but health checks."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        # Before the view, so that whoever has seen a response also finds its line.
        if settings.HIT_LOG and request.path != "/health/":
            condition = "" if CONDITIONS.isdisjoint(request.META) else " conditional"
            self.append(f"{request.method} {requested_target(request)}{condition}\n")
        return self.get_response(request)

    @staticmethod
    def append(line):
        # Opened anew each time: a test may remove the file to start counting afresh.
        # One write in append mode keeps the lines of several workers apart.
        log = os.open(settings.HIT_LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(log, line.encode())
        finally:
            os.close(log)


class VaryEraser:
    """Assigns Vary below /erased-vary/ where it should have added to it, as home-made header middlewares do."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        response = self.get_response(request)
        if request.path.startswith("/erased-vary/"):
            response["Vary"] = "Accept-Encoding"
        return response
