"""Facts whose every trace was to go, and what went."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer

from service import views
from service.commands import facts
from service.commands.console import (
    HEAD_STAYS,
    Json,
    checked_reason,
    context,
    err,
    list_and_show,
    progress_bar,
    show,
)
from service.commands.rollback import rebase_tables
from service.schemas import MAX_ID
from service.stopping import Stopping

group = typer.Typer(no_args_is_help=True, help="Facts that were erased, and the receipts.")

list_and_show(
    group,
    "erasures",
    columns=("id", "fact_ids", "requested_by", "requested_at", "completed_at", "reason"),
    many=views.list_erasures,
    one=views.show_erasure,
)


@facts.group.command("erase")
def facts_erase(
    fact: Annotated[list[int], typer.Argument(metavar="ID...", min=1, max=MAX_ID)],
    reason: Annotated[str, typer.Option(help="Why; it is kept with the receipt.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Take the adapters that saw them out unexamined, and train none again."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove every trace of facts: from the model, the files and the database.

    Adapters that saw them are trained again without them, each through the gate. It cannot be
    undone. One that was broken off goes on where it was.
    """
    from service.erasure import erase, plan_erasure

    if dry_run and force:
        raise typer.BadParameter("--dry-run and --force do not go together.")
    if dry_run:
        plan = plan_erasure(context.settings, context.engine(), fact)
        show(plan, as_json, lambda: list(_plan_lines(plan)))
        return
    with Stopping().listening() as stopping, progress_bar() as report:
        end = erase(
            context.settings,
            context.engine(),
            fact,
            by=context.by,
            reason=checked_reason(reason),
            force=force,
            report=report,
            stopping=stopping,
        )
    show(end, as_json, lambda: list(_end_lines(end)))
    if as_json and not end.is_complete:
        err.print(list(_end_lines(end))[-1], highlight=False, soft_wrap=True)
    if not end.is_complete:
        raise typer.Exit(1 if end.found_in else HEAD_STAYS)


def _plan_lines(plan: Any) -> Iterator[Any]:
    from service.tables import details_of

    yield details_of(asdict(plan))
    if plan.stand_again:
        yield (
            f"Facts {', '.join(map(str, plan.stand_again))} were replaced by one of them and would "
            "stand again."
        )
    if plan.said_by_others:
        more = ", ".join(map(str, plan.said_by_others))
        yield f"Facts {more} say the same in the same words, and would stay: name them, too?"
    if plan.same_subject:
        more = ", ".join(map(str, plan.same_subject))
        yield f"Facts {more} are about one of their subjects, too, and would stay: name them, too?"


def _end_lines(end: Any) -> Iterator[Any]:
    from service.tables import details_of

    if end.rebase is not None:
        yield from rebase_tables(end.rebase)
    elif end.rollback is not None:
        moved = end.rollback
        yield f"The head moved from release {moved.from_release} to {moved.to_release}, unexamined."
    twins = (end.receipt or {}).get("said_by_others")
    if twins:
        yield f"Facts {', '.join(map(str, twins))} say the same in the same words, and stay."
    if end.found_in:
        yield (
            f"Erasure {end.erasure_id} stays open: their text still stands in "
            f"{', '.join(end.found_in)}. Remove it there and erase them again."
        )
    elif not end.is_complete:
        yield (
            f"Erasure {end.erasure_id} stays open: the facts are withdrawn, and nothing is deleted "
            "yet. Erase them again, or with --force."
        )
    else:
        yield details_of(end.receipt)
        yield f"Erasure {end.erasure_id} is complete: every file was searched, and none has it."
