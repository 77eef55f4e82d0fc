from django.db import models
from django.dispatch import receiver
from wagtail.admin.panels import FieldPanel
from wagtail.contrib.frontend_cache.utils import PurgeBatch
from wagtail.models import Page
from wagtail.signals import page_published, page_unpublished


class Home(Page):
    subpage_types = ["blog.Entry"]

    def get_context(self, request, *args, **kwargs):
        entries = Entry.objects.child_of(self).live().order_by("path")
        return {**super().get_context(request, *args, **kwargs), "entries": entries}


class Entry(Page):
    text = models.TextField()

    content_panels = [*Page.content_panels, FieldPanel("text")]
    parent_page_types = ["blog.Home"]
    subpage_types = []


# Wagtail purges the page itself; what else shows it only the site knows.
@receiver([page_published, page_unpublished], sender=Entry)
def purge_lists(instance, **kwargs):
    batch = PurgeBatch()
    batch.add_pages(Home.objects.parent_of(instance).live())
    batch.purge()
