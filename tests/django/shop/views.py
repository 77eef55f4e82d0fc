"""The HTML pages and small documents. Each shows one way in which real Django code treats HTTP caching."""

import uuid

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import authenticate, login
from django.http import FileResponse, HttpResponse, HttpResponseForbidden, HttpResponseRedirect, JsonResponse
from django.middleware.locale import LocaleMiddleware
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone, translation
from django.utils.dates import WEEKDAYS
from django.utils.decorators import decorator_from_middleware
from django.views.decorators.cache import cache_page, never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.gzip import gzip_page
from django.views.decorators.http import conditional_page, etag, require_POST

from .models import Product


class ProductForm(forms.ModelForm):
    class Meta:
        model = Product
        fields = ["price"]


def page(request, title, text):
    return render(request, "shop/page.html", {"title": title, "text": text})


# Public pages ---------------------------------------------------------------------------------------------------------


def plain(request):
    return page(request, "Plain", "The same for everyone.")


def json_page(request):
    return JsonResponse({"answer": 42, "products": Product.objects.count()})


def product_list(request):
    return render(request, "shop/product_list.html", {"products": Product.objects.all()})


def product_page(request, pk):
    return render(request, "shop/product.html", {"product": get_object_or_404(Product, pk=pk)})


def product_edit(request, pk):
    product = get_object_or_404(Product, pk=pk)
    form = ProductForm(request.POST or None, instance=product)
    if request.method == "POST" and form.is_valid():
        form.save()
        return redirect("product-page", pk=pk)
    return render(request, "shop/product_edit.html", {"product": product, "form": form})


# Pages of one visitor -------------------------------------------------------------------------------------------------


def greeting(request):
    return page(request, "Greeting", f"Hello {request.user.get_username() or 'stranger'}!")


def form(request):
    if request.method == "POST":
        return page(request, "Thanks", f"Received from {request.POST.get('name', 'nobody')}.")
    return render(request, "shop/form.html")


def visits(request):
    request.session["visits"] = request.session.get("visits", 0) + 1
    return page(request, "Visits", f"Visit number {request.session['visits']}.")


def show_messages(request):
    return render(request, "shop/messages.html")


def add_message(request):
    messages.info(request, request.GET.get("text", "Saved."))
    return redirect("messages")


def theme(request):
    # Django cannot know that the page depends on this cookie: nothing adds Vary.
    return page(request, "Theme", f"The theme is {request.COOKIES.get('theme', 'light')}.")


@csrf_exempt
@require_POST
def quick_login(request):
    """Logs in with one POST. The regular /login/ asks for a CSRF token, which few tests care about."""
    user = authenticate(request, username=request.POST.get("username"), password=request.POST.get("password"))
    if user is None:
        return HttpResponseForbidden("wrong name or password\n")
    login(request, user)
    return HttpResponseRedirect(settings.LOGIN_REDIRECT_URL)


# Pages that say something about caching -------------------------------------------------------------------------------


@never_cache
def never_cached(request):
    return page(request, "Never cached", "Not to be kept.")


@cache_page(60)
def cached(request):
    return page(request, "Cached", f"Rendered as {uuid.uuid4().hex}.")


@etag(lambda request: f'"price-{Product.objects.get(pk=1).price}"')
def with_etag(request):
    return page(request, "ETag", f"Product 1 costs {Product.objects.get(pk=1).price}.")


@gzip_page
@conditional_page
def compressed(request):
    return page(request, "Compressed", "Long enough to be worth compressing. " * 40)


def localised(view):
    """Runs the locale middleware around one view only, so that the other pages keep their bare headers."""
    inner = decorator_from_middleware(LocaleMiddleware)(view)

    def wrapper(request):
        try:
            return inner(request)
        finally:
            # The middleware leaves its language active, and the thread's next request would inherit it.
            translation.deactivate()

    return wrapper


@localised
def weekday(request):
    return page(request, "Weekday", f"{WEEKDAYS[timezone.now().weekday()]} ({translation.get_language()})")


def download(request):
    return FileResponse(open(settings.MEDIA_ROOT / "manual.txt", "rb"))
