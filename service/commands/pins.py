"""Questions that no later release may lose."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from service import pins, views
from service.commands.console import Id, Reason, context, list_and_show, out
from service.db import writing
from service.errors import SettingsError
from service.schemas import MAX_ID

group = typer.Typer(no_args_is_help=True, help="Questions that no later release may lose.")


list_and_show(
    group,
    "pins",
    columns=("id", "question", "answers", "reason", "pinned_by", "removed_at"),
    many=views.list_pins,
    one=views.show_pin,
)


@group.command("add")
def pins_add(
    question: Annotated[str | None, typer.Option(help="A question of your own.")] = None,
    answer: Annotated[
        list[str] | None, typer.Option(help="An accepted answer; several times for several.")
    ] = None,
    refresh: Annotated[
        int | None, typer.Option(min=1, max=MAX_ID, help="Or: a refresh that asked it,")
    ] = None,
    probe: Annotated[str | None, typer.Option(help="and the probe's key there.")] = None,
    reason: Reason = "no reason given",
) -> None:
    """Pin a question: from now on a candidate that loses its answer fails."""
    by, now = context.by, datetime.now(UTC)
    own = question is not None and bool(answer) and refresh is None and probe is None
    asked = question is None and not answer and refresh is not None and probe is not None
    if not (own or asked):
        raise SettingsError("Give --question with --answer, or --refresh with --probe.")
    with writing(context.engine()) as session:
        if own:
            row = pins.pin(session, str(question), answer or [], reason=reason, by=by, now=now)
        else:
            row = pins.pin_probe(
                session, int(refresh or 0), str(probe), reason=reason, by=by, now=now
            )
        out.print(f"Pin {row.id}: {row.question}", markup=False)


@group.command("remove")
def pins_remove(pin: Id) -> None:
    """Ask a pinned question no more."""
    with writing(context.engine()) as session:
        pins.unpin(session, pin, by=context.by, now=datetime.now(UTC))
    out.print(f"Pin {pin} is removed.")
