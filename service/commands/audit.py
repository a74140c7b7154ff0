"""Who did what, and whether the log of it is whole."""

from typing import Annotated

import typer

from service import audit, views
from service.commands.console import Json, context, list_and_show, show
from service.db import reading

group = typer.Typer(no_args_is_help=True, help="Who did what, each entry sealed by the next.")

list_and_show(
    group,
    "audit entries",
    columns=("id", "at", "act", "by", "about"),
    many=views.list_audit,
    one=views.show_audit,
)


@group.command("verify")
def audit_verify(
    expect: Annotated[
        str | None, typer.Option(help="A digest noted earlier, which must be in the chain.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Was anything changed, removed or put in between? Exit code 1 if so."""
    with reading(context.engine()) as session:
        found = audit.verify(session, expect=expect)

    def render() -> list[str]:
        whole = "is whole" if not found.problems else "is not whole"
        line = f"The chain of {found.entries} entries {whole}; its newest is {found.newest_digest}."
        return [*found.problems, line]

    show(found, as_json, render)
    if found.problems:
        raise typer.Exit(1)
