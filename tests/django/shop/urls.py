from django.conf import settings
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import include, path
from django.views.static import serve
from rest_framework.routers import SimpleRouter

from . import api, oddities, views

router = SimpleRouter()
router.register("products", api.ProductViewSet)

urlpatterns = [
    path("plain/", views.plain),
    path("json/", views.json_page),
    path("products/", views.product_list),
    path("products/<int:pk>/", views.product_page, name="product-page"),
    path("products/<int:pk>/edit/", views.product_edit, name="product-edit"),
    path("greeting/", views.greeting),
    path("welcome/", views.greeting),
    path("form/", views.form),
    path("visits/", views.visits),
    path("messages/", views.show_messages, name="messages"),
    path("messages/add/", views.add_message),
    path("theme/", views.theme),
    path("login/", LoginView.as_view()),
    path("logout/", LogoutView.as_view()),
    path("quick-login/", views.quick_login),
    path("never-cache/", views.never_cached),
    path("cached-page/", views.cached),
    path("etag/", views.with_etag),
    path("gzip/", views.compressed),
    path("weekday/", views.weekday),
    path("files/manual.txt", views.download),
    path("media/<path:path>", serve, {"document_root": settings.MEDIA_ROOT}),
    path("erased-vary/greeting/", views.greeting),
    path("erased-vary/welcome/", views.greeting),
    path("erased-vary/form/", views.form),
    path("health/", oddities.health),
    path("echo/", oddities.echo),
    path("slow/", oddities.slow),
    path("stream/", oddities.stream),
    path("stream/broken/", oddities.broken_stream),
    path("events/", oddities.events),
    path("legacy/", oddities.legacy),
    path("error/", oddities.error),
    path("status/<int:code>/", oddities.status),
    path("api/me/", api.me_by_token),
    path("api/me/session/", api.me_by_session),
    path("api/whoami/", api.who_am_i),
    path("api/products/<int:pk>/crash/", oddities.crash),
    path("api/", include(router.urls)),
]
