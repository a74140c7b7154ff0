"""What was pushed, and what became of it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from service import facts, history, views
from service.commands.console import (
    Before,
    Id,
    Json,
    Limit,
    context,
    list_and_show,
    more_of,
    out,
    plain,
    show,
)
from service.db import reading, writing
from service.errors import SettingsError
from service.known_facts import in_head_that_saw
from service.schemas import MAX_ID

group = typer.Typer(no_args_is_help=True, help="What was pushed, and what became of it.")


def _fact_tables(view: Any) -> Sequence[Any]:
    from service.tables import fact_tables

    return fact_tables(view)


list_and_show(
    group,
    "facts",
    columns=("id", "state", "source", "external_id", "statement", "recorded_at"),
    many=views.list_facts,
    one=views.show_fact,
    tables=_fact_tables,
)


@group.command("held")
def facts_held(
    release: Annotated[
        int | None, typer.Option(min=1, max=MAX_ID, help="Of this release, not of the head.")
    ] = None,
    at: Annotated[
        datetime | None, typer.Option(help="Or: of what was the head then, in UTC.")
    ] = None,
    limit: Limit = 50,
    before: Before = None,
    as_json: Json = False,
) -> None:
    """The facts that the head, a release, or the head at a time was trained on."""
    if release is not None and at is not None:
        raise SettingsError("Give --release or --at, not both.")
    with reading(context.engine()) as session:
        held = history.facts_held(
            session,
            release_id=release,
            at=at and history.in_utc(at),
            before=before,
            limit=limit,
        )

    def render() -> Sequence[Any]:
        from service.tables import table_of

        columns = ("id", "outcome", "adapter_id", "source", "external_id", "statement")
        table = table_of(held.items, columns, title=f"facts of release {held.release_id}")
        return [table, *more_of(held.next)]

    show(held, as_json, render)


@group.command("holders")
def facts_holders(fact: Id, as_json: Json = False) -> None:
    """The adapters that were trained on a fact or were shown it again, and their releases."""
    with reading(context.engine()) as session:
        views.show_fact(session, fact)  # says so where there is none
        holders = history.holders_of(session, fact)

    def render() -> Sequence[Any]:
        from service.tables import table_of

        columns = tuple(history.Holder.model_fields)
        return [table_of(holders, columns, title=f"adapters that hold fact {fact}")]

    show([plain(holder) for holder in holders], as_json, render)


@group.command("retract")
def facts_retract(fact: Id) -> None:
    """Withdraw a fact. What an adapter learned of it stays until that adapter is taken out."""
    with writing(context.engine()) as session:
        facts.retract(session, fact, by=context.by, now=datetime.now(UTC))
        known_by = in_head_that_saw(session, fact)
    out.print(f"Fact {fact} is retracted.")
    for adapter in known_by:
        out.print(
            f"The head still knows it by adapter {adapter}: `lorewright rollback {adapter} "
            "--dry-run` says what the head would answer without it.",
            soft_wrap=True,
        )
    if known_by:
        out.print(
            f"`lorewright facts erase {fact}` trains what saw it again without it, and removes its "
            "text as well.",
            soft_wrap=True,
        )


@group.command("approve")
def facts_approve(fact: Id) -> None:
    """Let a held fact be trained; `facts review` says why it is held."""
    with writing(context.engine()) as session:
        facts.approve(session, fact, by=context.by, now=datetime.now(UTC))
    out.print(f"Fact {fact} is approved; the next refresh may take it.")


@group.command("review")
def facts_review(as_json: Json = False) -> None:
    """The facts that wait for a decision: held, expired, rejected, or given up after tries."""
    with reading(context.engine()) as session:
        review = views.facts_to_review(session, now=datetime.now(UTC))

    def render() -> Sequence[Any]:
        from service.tables import table_of

        columns = ("id", "state", "source", "statement", "why")
        more = ["There are more; they are shown once these are decided."] if review.more else []
        return [table_of(review.items, columns, title="review"), *more]

    show(review, as_json, render)
