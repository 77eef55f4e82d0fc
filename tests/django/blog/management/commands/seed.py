from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import transaction
from wagtail.models import Page, Site

from blog.models import Entry, Home


class Command(BaseCommand):
    help = "Creates the database, or puts an existing one back to its first state."

    def handle(self, *args, **options):
        settings.DATABASE_FILE.parent.mkdir(parents=True, exist_ok=True)
        call_command("migrate", interactive=False, verbosity=0)
        with transaction.atomic():
            self.create_pages()
            self.create_editor()
        self.stdout.write(f"{Entry.objects.count()} entries, editor {User.objects.get()}")

    def create_pages(self):
        root = Page.get_first_root_node()
        # Wagtail's own welcome page, or those of the last time; the site goes with its root page.
        for page in root.get_children():
            page.specific.delete()
        root = Page.get_first_root_node()
        home = root.add_child(instance=Home(title="All entries", slug="home"))
        for n in range(1, 4):
            # Saved rather than published: where nothing was shown yet, nothing needs a purge.
            home.add_child(instance=Entry(title=f"entry {n}", slug=f"entry-{n}", text=f"text {n}"))
        Site.objects.create(hostname=settings.HOST, port=settings.PORT, root_page=home, is_default_site=True)

    def create_editor(self):
        # Sessions refer to users by number only, so deleting a user leaves them behind.
        Session.objects.all().delete()
        User.objects.all().delete()
        User.objects.create_superuser("editor", password="editor-secret")
