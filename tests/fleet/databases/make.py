"""Writes this version's database with a row in each table: `python -m tests.fleet.databases.make VERSION`.

Done once for each release; tests/fleet/test_migrations.py migrates all that lie here.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import django

HERE = Path(__file__).parent


def main(version: str) -> None:
    with tempfile.TemporaryDirectory() as home:
        os.environ["CORTEX_STATE_DIR"] = home
        os.environ["DJANGO_SETTINGS_MODULE"] = "cortex_site.site.settings"
        django.setup()
        from django.core.management import call_command

        call_command("migrate", interactive=False, verbosity=0)
        fill()
        with closing(sqlite3.connect(Path(home) / "cortex.sqlite3")) as database:
            (HERE / f"{version}.sql").write_text("\n".join(database.iterdump()) + "\n")


def fill() -> None:
    """Make a row of each model; one that another needs comes first."""
    from django.apps import apps
    from django.db.models import Model

    made: dict[Any, Any] = {}
    todo = list(apps.get_app_config("fleet").get_models())
    while todo:
        model = next(each for each in todo if needs(each) <= made.keys())
        fields = [field for field in model._meta.concrete_fields if not without(field, made)]
        row = model(**{field.name: value(field, made) for field in fields})
        Model.save_base(row, force_insert=True)  # as the database takes it: no announcement, no check
        made[model] = row
        todo.remove(model)


def needs(model: Any) -> set[Any]:
    return {
        field.related_model for field in model._meta.concrete_fields if field.is_relation and not field.null
    }


def without(field: Any, made: dict[Any, Any]) -> bool:
    if field.is_relation:
        return field.related_model not in made
    return field.primary_key or field.has_default() or field.null


def value(field: Any, made: dict[Any, Any]) -> Any:
    from django.utils import timezone

    if field.is_relation:
        return made[field.related_model]
    if field.choices:
        return field.choices[0][0]
    match field.get_internal_type():
        case "DateTimeField":
            return timezone.now()
        case "DateField":
            return timezone.now().date()
        case "JSONField":
            return {}
        case "CharField" | "TextField":
            return "http://10.0.0.7:13131" if "endpoint" in field.name else field.name[: field.max_length]
        case _:
            return 1


if __name__ == "__main__":
    main(sys.argv[1])
