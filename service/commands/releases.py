"""Releases: what is in them, which are kept, and handing one on."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from service import history, views
from service.commands.console import (
    Id,
    Json,
    Reason,
    checked_reason,
    context,
    list_and_show,
    out,
    show,
)
from service.db import reading, writing
from service.errors import SettingsError
from service.schemas import MAX_ID

group = typer.Typer(
    no_args_is_help=True,
    help="The base, what passed the gate, what rollbacks made; one is the head.",
)


list_and_show(
    group,
    "releases",
    columns=("id", "is_head", "adapters", "created_at"),
    many=views.list_releases,
    one=views.show_release,
)


@group.command("diff")
def releases_diff(
    earlier: Annotated[int, typer.Argument(min=1, max=MAX_ID)],
    later: Annotated[int, typer.Argument(min=1, max=MAX_ID)],
    as_json: Json = False,
) -> None:
    """What is different between two releases: adapters, facts, and what they answer."""
    with reading(context.engine()) as session:
        changes = history.changes_between(session, earlier, later)

    def render() -> Iterator[Any]:
        from service.tables import details_of, table_of

        yield details_of(changes, leave_out=("flips",))
        if changes.flips is None:
            yield "One of them was never examined by itself, so their answers are not compared."
        elif changes.flips:
            columns = ("suite", "fact_id", "question", "before", "after", "is_answered")
            yield table_of(changes.flips, columns, title="answers that changed sides")

    show(changes, as_json, lambda: list(render()))


@group.command("check")
def releases_check(
    release: Annotated[
        int | None, typer.Argument(min=1, max=MAX_ID, help="Default: the head.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Does a release still say what the gate approved it by? Exit code 1 if not."""
    from service.asking import ask_canary

    canary = ask_canary(context.settings, context.engine(), release_id=release)

    def render() -> Iterator[Any]:
        from rich.table import Table

        from service.tables import cell

        if canary.changed:
            table = Table("question", "approved", "now", show_lines=True)
            for texts in canary.changed:
                table.add_row(*(cell(text, limit=500) for text in texts))
            yield table
        yield (
            f"Release {canary.release_id} answers {canary.same} of {canary.asked} questions in the "
            f"words that refresh {canary.refresh_id} was judged by."
        )

    show(canary, as_json, lambda: list(render()))
    if not canary.passes:
        raise typer.Exit(1)


@group.command("pin")
def releases_pin(release: Id, reason: Reason, as_json: Json = False) -> None:
    """Keep the composed model of a release on the disk, however old it gets."""
    from service.collect import pin_release
    from service.places import Places

    by = context.by
    with writing(context.engine()) as session:
        pin_release(session, release, by=by, reason=checked_reason(reason), now=datetime.now(UTC))
        view = views.show_release(session, release)
    place = Places(context.settings.state_dir).snapshot(view.recipe_digest)
    is_there = not view.adapters or place.is_dir()
    later = "" if is_there else " Its model is not there now; what asks for it composes it again."
    show(view, as_json, lambda: [f"Release {release} is pinned.{later}"])


@group.command("unpin")
def releases_unpin(release: Id) -> None:
    """Let the composed model of a release go when its time comes."""
    from service.collect import unpin_release

    with writing(context.engine()) as session:
        unpin_release(session, release, by=context.by, now=datetime.now(UTC))
    out.print(f"Release {release} is no longer pinned.")


def export(
    to: Annotated[Path, typer.Option(help="A folder that is not there yet.")],
    release: Annotated[
        int | None, typer.Argument(min=1, max=MAX_ID, help="Default: the head.")
    ] = None,
    form: Annotated[
        str, typer.Option(help="model: a Hugging Face folder; lora: one PEFT adapter.")
    ] = "model",
    as_json: Json = False,
) -> None:
    """Hand a release on, with a model card that says what it is made of."""
    from service.export import Form, export_release

    if form not in set(Form):
        raise SettingsError(f"--form {form} is not known; there are {', '.join(Form)}.")
    done = export_release(
        context.settings, context.engine(), to, release_id=release, form=Form(form)
    )
    show(done, as_json, lambda: [f"Release {done.release_id} is in {to}, as {done.form}."])
