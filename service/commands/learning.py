"""Learning, and what was learned: a refresh, a question, the demonstration."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from service import batches, facts, views
from service.commands.console import (
    HEAD_STAYS,
    Json,
    context,
    err,
    list_and_show,
    progress_bar,
    show,
)
from service.db import reading
from service.schemas import MAX_ID
from service.stopping import Stopping

group = typer.Typer(no_args_is_help=True, help="Trainings and their verdicts.")


def refresh(
    at_least: Annotated[
        int | None, typer.Option(min=1, help="Facts that must wait; default: the settings'.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Learn the waiting facts now: train, examine, judge, and promote what passes."""
    from service.models import RefreshOutcome
    from service.refresh import run_refresh

    settings = context.settings
    needed = settings.schedule.at_least if at_least is None else at_least
    with Stopping().listening() as stopping, progress_bar() as report:
        end = run_refresh(
            settings,
            context.engine(),
            at_least=needed,
            report=report,
            stopping=stopping,
        )
    if end is None:
        with reading(context.engine()) as session:
            too_few = batches.held_back(
                session,
                at_least=needed,
                at_most_of_source=settings.schedule.at_most_of_source,
                now=datetime.now(UTC),
            )
            held = batches.count_held(session, now=datetime.now(UTC))
        lines = [
            too_few or f"Fewer than {needed} facts are waiting: push more, or pass --at-least."
        ]
        if held:
            lines.append(f"Held for an admin are {held}: lorewright facts review.")
        show({"outcome": None, "held": held}, as_json, lambda: lines)
        return
    with reading(context.engine()) as session:
        record = views.show_refresh(session, end.refresh_id)

    def tables() -> Sequence[Any]:
        from service.tables import refresh_tables

        return refresh_tables(record)

    show(record, as_json, tables)
    if end.outcome is RefreshOutcome.INSUFFICIENT and not as_json:
        with reading(context.engine()) as session:
            suspects = facts.held_of(session, record.fact_ids)
            given_up = facts.rejected_of(session, record.fact_ids, now=datetime.now(UTC))
        if suspects:
            err.print(
                "Held for an admin, since they may plant an answer: facts "
                f"{', '.join(map(str, suspects))}. "
                "lorewright facts approve, or retract, each.",
                highlight=False,
                soft_wrap=True,
            )
        said = "The gate could not tell"
        if given_up:
            said += (
                f", at the last of schedule.tries: facts {', '.join(map(str, given_up))} are "
                "rejected"
            )
        if len(record.fact_ids) > len(suspects) + len(given_up):
            others = "the others join" if suspects or given_up else "the facts join"
            said += f"; {others} the next batch"
        err.print(
            f"{said}. To let this adapter in as it is: lorewright adapters promote "
            f"{end.adapter_id} --reason WHY",
            highlight=False,
            soft_wrap=True,
        )
    if end.outcome is not RefreshOutcome.PROMOTED:
        raise typer.Exit(HEAD_STAYS)


def ask(
    questions: Annotated[list[str], typer.Argument(help="One or several questions.")],
    release: Annotated[
        int | None, typer.Option(min=1, max=MAX_ID, help="Ask this release, not the head.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask the head, or a release, and beside it the base."""
    from service.asking import ask_release

    if not all(question.strip() for question in questions):
        raise typer.BadParameter("A question must hold at least one word.")
    replies = ask_release(context.settings, context.engine(), questions, release_id=release)

    def tables() -> Sequence[Any]:
        from rich.table import Table

        from service.tables import cell

        name = f"release {replies.release_id}" + (" (head)" if replies.is_head else "")
        table = Table("question", name, "base", show_lines=True)
        for reply in replies.answers:
            table.add_row(*(cell(text, limit=500) for text in asdict(reply).values()))
        return [table]

    show(replies, as_json, tables)


def demo(
    seed: Annotated[int, typer.Option(help="What facts are invented.")] = 1,
    count: Annotated[int, typer.Option("--facts", min=8, help="How many.")] = 8,
    as_json: Json = False,
) -> None:
    """Watch the base learn invented facts, pass the gate, and forget them after a rollback."""
    from service.demo import run_demo
    from service.tables import demo_tables

    def say(line: str) -> None:
        err.print(line, style="bold", highlight=False, soft_wrap=True)

    with Stopping().listening(), progress_bar() as report:
        result = run_demo(
            context.settings,
            context.config,
            seed=seed,
            count=count,
            say=say,
            watch=lambda record: report(_progress_of(record)),
        )
    summary = (
        f"Seed {result.seed}: forward {result.forward:.2f}, backward {result.backward:.2f} "
        f"(before: {result.known_before:.2f}), {result.seconds:.0f} s in all."
    )
    show(result, as_json, lambda: [*demo_tables(result), summary])
    for failure in result.failures:
        err.print(failure, style="red", markup=False, soft_wrap=True)
    if result.failures:
        raise typer.Exit(1)


def _progress_of(record: dict[str, Any]) -> Any:
    from service.progress import Progress as RefreshProgress

    loss = record["losses"][-1]["loss"] if record["losses"] else None
    return RefreshProgress(
        phase=record["phase"],
        step=record["step"],
        steps=record["steps"],
        loss=loss if record["phase"] == "training" else None,
    )


def _refresh_tables(view: Any) -> Sequence[Any]:
    from service.tables import refresh_tables

    return refresh_tables(view)


list_and_show(
    group,
    "refreshes",
    columns=("id", "started_at", "outcome", "facts", "adapter_id", "phase", "reason"),
    many=views.list_refreshes,
    one=views.show_refresh,
    tables=_refresh_tables,
)
