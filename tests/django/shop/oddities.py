"""Pages that misbehave, wait, stream or look inside: what a proxy meets beside well-behaved pages."""

import math
import os
import time
import uuid

from django.conf import settings
from django.http import HttpResponse, HttpResponseBadRequest, JsonResponse, StreamingHttpResponse
from django.views.decorators.csrf import csrf_exempt

from .middleware import requested_target
from .models import Product

LONGEST_SLEEP = 3.0
LONGEST_WAIT = 20.0


def number(request, name, default, highest):
    """A query parameter as a number from 0 to `highest`; None when it is no such number."""
    try:
        value = float(request.GET.get(name, default))
    except ValueError:
        return None
    if not math.isfinite(value) or value < 0:
        return None
    return min(value, highest)


def wait_for_gate(request):
    """Lets a test decide when a stream goes on: waits for the file `gate-NAME` beside the database, if asked to."""
    name = request.GET.get("gate", "")
    if not name.isalnum():
        return
    gate = settings.DATABASE_FILE.with_name(f"gate-{name}")
    deadline = time.monotonic() + LONGEST_WAIT
    while not gate.exists():
        if time.monotonic() > deadline:
            raise RuntimeError(f"nobody opened {gate.name}")
        time.sleep(0.01)


def health(request):
    return HttpResponse("ok\n", content_type="text/plain")


@csrf_exempt
def echo(request):
    return JsonResponse(
        {
            "method": request.method,
            "target": requested_target(request),
            "scheme": request.scheme,
            "host": request.get_host(),
            "headers": dict(request.headers),
            "body": request.body.decode(errors="replace"),
        }
    )


def slow(request):
    seconds = number(request, "s", 0.5, LONGEST_SLEEP)
    if seconds is None:
        return HttpResponseBadRequest("s must be a number of seconds\n")
    time.sleep(seconds)
    # Two answers with the same name come from the same run of this view.
    return HttpResponse(f"slept {seconds} s, run {uuid.uuid4().hex}\n", content_type="text/plain")


def stream(request):
    chunks = number(request, "chunks", 5, 1000)
    pause = number(request, "pause", 0.05, 0.5)
    if chunks is None or pause is None:
        return HttpResponseBadRequest("chunks and pause must be numbers\n")

    def produce():
        for index in range(int(chunks)):
            if index:
                time.sleep(pause)
            if index == 1:
                wait_for_gate(request)
            yield f"chunk {index}\n"

    return StreamingHttpResponse(produce(), content_type="text/plain")


def broken_stream(request):
    """Dies half-way: the client sees a chunked body without its end."""

    def produce():
        yield "the beginning\n"
        raise RuntimeError("this stream breaks on purpose")

    return StreamingHttpResponse(produce(), content_type="text/plain")


def events(request):
    pause = number(request, "pause", 0.1, 0.5)
    if pause is None:
        return HttpResponseBadRequest("pause must be a number\n")

    def produce():
        for index in range(3):
            yield f"data: event {index}\n\n"
            if index == 0:
                wait_for_gate(request)
            time.sleep(pause)

    response = StreamingHttpResponse(produce(), content_type="text/event-stream")
    response["Cache-Control"] = "no-cache"
    return response


class LegacyResponse(StreamingHttpResponse):
    """Sends one header twice, in different case, which the header dictionary of Django cannot hold."""

    def items(self):
        return [*super().items(), ("X-Legacy", "one"), ("x-LEGACY", "two")]


def legacy(request):
    response = LegacyResponse(["an old page\n", "in two pieces\n"], content_type="text/html")
    response.set_cookie("last_seen", uuid.uuid4().hex)
    response.set_cookie("tracker", uuid.uuid4().hex, max_age=3600)
    return response


@csrf_exempt
def crash(request, pk):
    """Sets the price and ends the worker, as the kernel does when memory runs out: done, but nobody is told."""
    Product.objects.filter(pk=pk).update(price=request.POST["price"])
    os._exit(1)


def error(request):
    raise RuntimeError("this page fails on purpose")


def status(request, code):
    if not 200 <= code <= 599:
        return HttpResponseBadRequest("the status must lie between 200 and 599\n")
    response = HttpResponse(f"status {code}\n", status=code, content_type="text/plain")
    if code in (429, 503):
        response["Retry-After"] = "1"
    return response
