import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


def page_pointer():
    return models.OneToOneField(
        auto_created=True,
        on_delete=django.db.models.deletion.CASCADE,
        parent_link=True,
        primary_key=True,
        serialize=False,
        to=settings.WAGTAIL_PAGE_MODEL,
    )


class Migration(migrations.Migration):
    initial = True
    dependencies = [("wagtailcore", "0098_apitoken")]

    operations = [
        migrations.CreateModel(
            name="Entry",
            fields=[("page_ptr", page_pointer()), ("text", models.TextField())],
            options={"abstract": False},
            bases=("wagtailcore.page",),
        ),
        migrations.CreateModel(
            name="Home",
            fields=[("page_ptr", page_pointer())],
            options={"abstract": False},
            bases=("wagtailcore.page",),
        ),
    ]
