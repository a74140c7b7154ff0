"""The state directory: made ready, served, cleaned up."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from sqlalchemy import make_url

from service import logs
from service.commands.console import Json, context, out, progress_bar, show
from service.db import upgrade

group = typer.Typer(no_args_is_help=True, help="The database's schema.")


def init(
    measure: Annotated[
        bool,
        typer.Option(help="Ask the base the general questions now; else the first refresh does."),
    ] = True,
    as_json: Json = False,
) -> None:
    """Create the database, convert the base model and ask it, make the first release.

    Safe to repeat.
    """
    from service.initialise import initialise, measure_base
    from service.progress import Progress as Step

    done = initialise(context.settings)
    if measure:
        with progress_bar() as report:
            measure_base(
                context.settings,
                report=lambda step, steps: report(Step(phase="asking", step=step, steps=steps)),
            )
    made = "converted" if done.was_converted else "there already, verified"
    show(
        done,
        as_json,
        lambda: [f"{done.base}: {made}.", f"The head is release {done.head_release}."],
    )


def settings(as_json: Json = False) -> None:
    """Print the settings as they are in force, defaults and environment included."""
    import yaml

    said = context.settings.model_dump(mode="json")
    if said["database_url"]:
        said["database_url"] = make_url(said["database_url"]).render_as_string()
    if said["webhook"]["url"]:  # what lets one in may stand in it
        parts = urlsplit(said["webhook"]["url"])
        said["webhook"]["url"] = f"{parts.scheme}://{parts.hostname}/..."
    if as_json:
        show(said, as_json, lambda: [])
    else:
        print(yaml.safe_dump(said, sort_keys=False, allow_unicode=True), end="")


def serve() -> None:
    """Run the daemon: API and clock, until SIGTERM."""
    from service.daemon import serve as serve_forever

    logs.set_up(context.settings.log)
    serve_forever(context.settings, config=context.config)


def gc(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove what can be composed again or was left behind; adapters always stay."""
    from service.collect import collect, find_leftovers

    settings, engine = context.settings, context.engine()
    if dry_run:
        found = find_leftovers(settings, engine, now=datetime.now(UTC))
    else:
        found = collect(settings, engine)

    def render() -> Iterator[Any]:
        from service.tables import table_of

        if found.leftovers:
            yield table_of(found.leftovers, ("path", "why", "bytes"), title="leftovers")
        kept = ", ".join(map(str, found.kept_releases))
        verb = "would be" if dry_run else "are"
        yield f"{found.bytes} bytes {verb} free again; the models of releases {kept} stay."

    show(found, as_json, lambda: list(render()))


def fsck(
    fast: Annotated[
        bool, typer.Option("--fast", help="Read no artefact whole; what `serve` does at its start.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Does everything that is recorded hold together? Exit code 1 if not."""
    from service.fsck import check

    found = check(context.settings, context.engine(), fast=fast, now=datetime.now(UTC))

    def render() -> list[str]:
        how = "looked at" if fast else "read whole"
        count = len(found.problems)
        said = f"{found.rules} rules hold" if not count else f"{count} problems"
        return [*found.problems, f"{said}; artefacts were {how}."]

    show(found, as_json, render)
    if found.problems:
        raise typer.Exit(1)


def backup(
    to: Annotated[Path, typer.Option(help="A folder that is not there yet.")],
    as_json: Json = False,
) -> None:
    """Write all that cannot be made anew into one folder, while the daemon runs."""
    from service.backup import back_up

    done = back_up(context.settings, context.engine(), to, by=context.by)
    show(
        done,
        as_json,
        lambda: [
            f"{to} holds the database with release {done.head_release} as its head, the base and "
            f"{done.adapters} adapters: {done.bytes} bytes. Keep it secret: the pepper is in it."
        ],
    )


def restore(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `backup` wrote.")],
    as_json: Json = False,
) -> None:
    """Bring a backup back into an empty state directory, and see that it holds together."""
    from service.backup import restore as bring_back

    done = bring_back(context.settings, source)
    show(
        done,
        as_json,
        lambda: [
            f"Release {done.head_release} is the head again, with {done.adapters} adapters beside "
            "it; everything was read and holds together. Composed models are made when asked for."
        ],
    )


@group.command("upgrade")
def db_upgrade() -> None:
    """Create the database or bring it to the newest schema."""
    upgrade(context.settings.url)
    out.print("The database is at the newest schema.")


@group.command("check")
def db_check() -> None:
    """Is the database at the schema that this version needs?"""
    context.engine()
    out.print("The database is at the newest schema.")
