from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core.cache import cache
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import transaction
from rest_framework.authtoken.models import Token

from shop.models import Product

USER_NAMES = ["ada", "bob"]
TOKEN_LENGTH = 40


class Command(BaseCommand):
    help = "Creates the database and the static files, or puts an existing database back to its first state."

    def handle(self, *args, **options):
        settings.DATABASE_FILE.parent.mkdir(parents=True, exist_ok=True)
        call_command("migrate", interactive=False, verbosity=0)
        call_command("collectstatic", interactive=False, verbosity=0)
        with transaction.atomic():
            self.create_products()
            self.create_users()
        cache.clear()
        self.stdout.write(f"{Product.objects.count()} products, users {' and '.join(USER_NAMES)}")

    def create_products(self):
        Product.objects.all().delete()
        Product.objects.bulk_create(Product(id=n, name=f"product {n}", price=100 + n) for n in range(1, 21))

    def create_users(self):
        # Sessions refer to users by number only, so deleting a user leaves them behind.
        Session.objects.all().delete()
        User.objects.filter(username__in=USER_NAMES).delete()
        for name in USER_NAMES:
            user = User.objects.create_user(name, password=f"{name}-secret")
            Token.objects.create(user=user, key=f"token-of-{name}-".ljust(TOKEN_LENGTH, "0"))
