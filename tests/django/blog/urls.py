from django.http import HttpResponse
from django.urls import include, path
from wagtail import urls as wagtail_urls
from wagtail.admin import urls as admin_urls


def health(request):
    return HttpResponse("ok\n")


urlpatterns = [
    path("health/", health),
    path("admin/", include(admin_urls)),
    # Last, as it takes every path that is left.
    path("", include(wagtail_urls)),
]
