"""The way back."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from service.commands.console import (
    HEAD_STAYS,
    Json,
    Reason,
    checked_reason,
    context,
    err,
    out,
    progress_bar,
    show,
)
from service.errors import SettingsError
from service.schemas import MAX_ID, problem_of_ways
from service.stopping import Stopping


def rollback(
    adapter: Annotated[
        int | None, typer.Argument(min=1, max=MAX_ID, help="The adapter to take out.")
    ] = None,
    to: Annotated[
        int | None,
        typer.Option("--to", min=1, max=MAX_ID, help="Or: the release to go back to."),
    ] = None,
    with_later: Annotated[
        bool, typer.Option("--with-later", help="And all adapters that came after it.")
    ] = False,
    rebased: Annotated[
        bool,
        typer.Option("--rebase", help="And train the later ones that saw its facts without them."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what the head would answer without it.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Ask nothing first; the history says so.")
    ] = False,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Take an adapter out of the head, or point the head at another release.

    What the head would be without it is examined first, unless that is a release that was the head
    before. If its facts are still answered then, or others are lost, the head stays.
    """
    from service.removal import examine_removal, plan_removal
    from service.rollback import go_back, take_out

    ways = {
        "--with-later": with_later,
        "--rebase": rebased,
        "--dry-run": dry_run,
        "--force": force,
    }
    problem = problem_of_ways(adapter, to, ways)
    if problem:
        raise SettingsError(problem)
    if not dry_run:
        checked_reason(reason)
    by = context.by
    settings, engine = context.settings, context.engine()
    removal = None
    if adapter is None:
        done = go_back(settings, engine, int(to or 0), by=by, reason=reason)
    else:
        plan = plan_removal(engine, adapter, with_later=with_later)
        if rebased and plan.trained_on_them:
            _rebase(plan, by=by, reason=reason, as_json=as_json)
            return
        if dry_run or not (force or plan.release_id):
            with progress_bar() as watch:
                removal = examine_removal(settings, engine, plan, watch=watch)
        if removal is not None and (dry_run or not removal.passes):
            _show_removal(removal, as_json, is_dry=dry_run)
            raise typer.Exit(0 if removal.passes else HEAD_STAYS)
        if removal is not None and not as_json:
            _print_removal(removal)  # before the head moves
        done = take_out(settings, engine, plan, by=by, reason=reason, removal=removal)

    def render() -> Iterator[Any]:
        gone = ", ".join(map(str, done.taken_out)) or "none"
        yield f"The head moved from release {done.from_release} to {done.to_release}."
        yield f"Adapters taken out: {gone}."
        if done.trained_on_them:
            later = ", ".join(map(str, done.trained_on_them))
            yield f"Trained while it was in, and still in the head: {later}."
        if done.is_forced:
            yield "Nobody looked first at what the head says without them: forced."

    show(done, as_json, lambda: list(render()))


def _rebase(plan: Any, *, by: str, reason: str, as_json: bool) -> None:
    """Carry the plan out with the later adapters trained again, and say how it went."""
    from service.rebase import rebase

    with Stopping().listening() as stopping, progress_bar() as report:
        done = rebase(
            context.settings,
            context.engine(),
            plan,
            by=by,
            reason=reason,
            report=report,
            stopping=stopping,
            judged=lambda removal: None if as_json else _print_removal(removal),
        )

    show(done, as_json, lambda: list(rebase_tables(done, is_shown=True)))
    if done.rollback is None:
        raise typer.Exit(HEAD_STAYS)


def rebase_tables(done: Any, *, is_shown: bool = False) -> Iterator[Any]:
    """How a rebase went, adapter by adapter; what was found of the whole, unless it `is_shown`."""
    from service.tables import removal_tables, verdict_table

    for end in done.refreshes:
        yield f"Refresh {end.refresh_id}, adapter {end.adapter_id}: {end.outcome}."
        if end.verdict is not None:
            yield verdict_table(asdict(end.verdict))
    if done.removal is not None and not is_shown:
        yield from removal_tables(done.removal)
    if done.left:
        yield f"Facts of later adapters that are not in it: {', '.join(map(str, done.left))}."
    if done.rollback is None:
        yield "The head stays: not all of this passed."
    else:
        moved = done.rollback
        yield f"The head moved from release {moved.from_release} to {moved.to_release}."


def _print_removal(removal: Any) -> None:
    from service.tables import removal_tables

    for part in removal_tables(removal):
        out.print(part)


def _show_removal(removal: Any, as_json: bool, *, is_dry: bool) -> None:
    """What was found where the head stays, and what can be done."""

    def tables() -> Sequence[Any]:
        from service.tables import removal_tables

        return removal_tables(removal)

    show(removal, as_json, tables)
    if is_dry or as_json:
        return
    replayed = ", ".join(map(str, removal.replayed_by))
    err.print(
        "The head stays. "
        + (f"Adapters {replayed} were shown facts of it, too. " if replayed else "")
        + "Train those again without it (--rebase), or take out with it all that came later "
        "(--with-later). If it must go at once and this is the lesser harm: --force.",
        style="red",
        highlight=False,
        soft_wrap=True,
    )
