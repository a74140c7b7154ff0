"""The `lorewright` command: the only place that prints.

What loads a model is imported inside the command that needs it, so that `serve` never imports
torch. Exit codes: 0 done, 1 refused or failed (one sentence on stderr says why), 2 wrong usage or
settings, 3 a refresh or removal after which the head stays, 130 stopped by a signal.
"""

import getpass
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from adapters.errors import AdapterError
from service import auth, facts, history, pins, views
from service.auth import Scope
from service.db import check_at_head, make_engine, reading, upgrade, writing
from service.errors import ServiceError, SettingsError, Stopped
from service.settings import CONFIG_VARIABLE, DEFAULT_CONFIG, Settings, load_settings
from service.stopping import Stopping

HEAD_STAYS = 3
STOPPED = 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Keeps a language model's knowledge current, and takes any of it back.",
)
groups = {
    name: typer.Typer(no_args_is_help=True, help=about)
    for name, about in {
        "facts": "What was pushed, and what became of it.",
        "refreshes": "Trainings and their verdicts.",
        "adapters": "The LoRA weights of each batch.",
        "deliveries": "Head moves, and what became of telling the webhook's receiver.",
        "releases": "The base, what passed the gate, what rollbacks made; one is the head.",
        "pins": "Questions that no later release may lose.",
        "keys": "API keys.",
        "db": "The database's schema.",
    }.items()
}
for name, group in groups.items():
    app.add_typer(group, name=name)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Id = Annotated[int, typer.Argument(metavar="ID", min=1, max=views.MAX_ID)]
Limit = Annotated[int, typer.Option(min=1, max=views.MAX_PAGE)]
Before = Annotated[
    int | None, typer.Option(min=1, max=views.MAX_ID, help="Only those with a smaller id.")
]
Reason = Annotated[str, typer.Option(help="Why; it is kept in the head's history.")]
out, err = Console(), Console(stderr=True)


class _Context:
    """What every command needs, made when it is needed."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.opened: Engine | None = None

    @property
    def settings(self) -> Settings:
        return load_settings(self.config)

    def engine(self) -> Engine:
        """Raises DatabaseNotReady when the schema is not the one that this version needs."""
        if self.opened is None:
            self.opened = make_engine(self.settings.url)
            check_at_head(self.opened)
        return self.opened

    def close(self) -> None:
        if self.opened is not None:
            self.opened.dispose()
        self.opened = None


context = _Context(DEFAULT_CONFIG)


@app.callback()
def choose_settings(
    config: Annotated[
        Path, typer.Option(envvar=CONFIG_VARIABLE, help="The settings file.")
    ] = DEFAULT_CONFIG,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log what is done.")] = False,
) -> None:
    context.config = config
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )


def main() -> None:
    """Run the command; an error that was foreseen is one sentence and an exit code."""
    try:
        app()
    except Stopped as error:
        _fail(str(error), STOPPED)
    except SettingsError as error:
        _fail(str(error), 2)
    except (ServiceError, AdapterError) as error:
        _fail(str(error), 1)
    except SQLAlchemyError as error:
        _fail(f"The database failed: {getattr(error, 'orig', None) or error}", 1)
    except OSError as error:
        _fail(f"The system refused: {error}.", 1)
    finally:
        context.close()


def _fail(sentence: str, code: int) -> None:
    err.print(sentence, style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


def _show(value: Any, as_json: bool, render: Callable[[], Sequence[Any]]) -> None:
    """The value as JSON, or what `render` makes of it."""
    if as_json:
        print(json.dumps(_plain(value), ensure_ascii=False, default=str))
        return
    for part in render():
        out.print(part)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


# --- the daemon and its state ---------------------------------------------------------------------


@app.command()
def init(
    measure: Annotated[
        bool, typer.Option(help="Ask the base what every refresh needs of it; or the first does.")
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
        with _bar() as report:
            measure_base(
                context.settings,
                report=lambda step, steps: report(Step(phase="asking", step=step, steps=steps)),
            )
    made = "converted" if done.was_converted else "there already, verified"
    _show(
        done,
        as_json,
        lambda: [f"{done.base}: {made}.", f"The head is release {done.head_release}."],
    )


@app.command()
def serve() -> None:
    """Run the daemon: API and clock, until SIGTERM."""
    from service.daemon import serve as serve_forever

    logging.getLogger().setLevel(logging.INFO)
    serve_forever(context.settings, config=context.config)


@groups["db"].command("upgrade")
def db_upgrade() -> None:
    """Create the database or bring it to the newest schema."""
    upgrade(context.settings.url)
    out.print("The database is at the newest schema.")


@groups["db"].command("check")
def db_check() -> None:
    """Is the database at the schema that this version needs?"""
    context.engine()
    out.print("The database is at the newest schema.")


# --- learning, asking, going back -----------------------------------------------------------------


@app.command()
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
    with Stopping().listening() as stopping, _bar() as report:
        end = run_refresh(
            settings,
            context.engine(),
            at_least=needed,
            report=report,
            stopping=stopping,
        )
    if end is None:
        too_few = f"Fewer than {needed} facts are waiting: push more, or pass --at-least."
        _show({"outcome": None}, as_json, lambda: [too_few])
        return
    with reading(context.engine()) as session:
        record = views.show_refresh(session, end.refresh_id)

    def tables() -> Sequence[Any]:
        from service.tables import refresh_tables

        return refresh_tables(record)

    _show(record, as_json, tables)
    if end.outcome is RefreshOutcome.INSUFFICIENT and not as_json:
        err.print(
            "The gate could not tell: the facts join the next batch. To let this adapter in as it "
            f"is: lorewright adapters promote {end.adapter_id} --reason WHY",
            highlight=False,
            soft_wrap=True,
        )
    if end.outcome is not RefreshOutcome.PROMOTED:
        raise typer.Exit(HEAD_STAYS)


@app.command()
def ask(
    questions: Annotated[list[str], typer.Argument(help="One or several questions.")],
    release: Annotated[
        int | None, typer.Option(min=1, max=views.MAX_ID, help="Ask this release, not the head.")
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

    _show(replies, as_json, tables)


@app.command()
def rollback(
    adapter: Annotated[
        int | None, typer.Argument(min=1, max=views.MAX_ID, help="The adapter to take out.")
    ] = None,
    to: Annotated[
        int | None,
        typer.Option("--to", min=1, max=views.MAX_ID, help="Or: the release to go back to."),
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
    reason: Reason = "no reason given",
    as_json: Json = False,
) -> None:
    """Take an adapter out of the head, or point the head at another release.

    What the head would be without it is examined first, unless that is a release that was the head
    before. If its facts are still answered then, or others are lost, the head stays.
    """
    from service.removal import examine_removal, plan_removal
    from service.rollback import go_back, take_out

    if (adapter is None) == (to is None):
        raise SettingsError("Name either an adapter or, with --to, a release.")
    ways = {
        "--with-later": with_later,
        "--rebase": rebased,
        "--dry-run": dry_run,
        "--force": force,
    }
    chosen = [name for name, is_chosen in ways.items() if is_chosen]
    if to is not None and chosen:
        raise SettingsError(f"{' and '.join(chosen)}: only for taking an adapter out.")
    if len(chosen) > 1 and chosen != ["--with-later", "--dry-run"]:
        raise SettingsError(f"{' and '.join(chosen)} do not go together.")
    by = getpass.getuser()
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
            with _bar() as watch:
                removal = examine_removal(settings, engine, plan, watch=watch)
        if removal is not None and (dry_run or not removal.passes):
            _show_removal(removal, as_json, is_dry=dry_run)
            raise typer.Exit(0 if removal.passes else HEAD_STAYS)
        done = take_out(settings, engine, plan, by=by, reason=reason, removal=removal)

    def render() -> Iterator[Any]:
        from service.tables import removal_tables

        if removal is not None:
            yield from removal_tables(removal)
        gone = ", ".join(map(str, done.taken_out)) or "none"
        yield f"The head moved from release {done.from_release} to {done.to_release}."
        yield f"Adapters taken out: {gone}."
        if done.trained_on_them:
            later = ", ".join(map(str, done.trained_on_them))
            yield f"Trained while it was in, and still in the head: {later}."
        if done.is_forced:
            yield "Nobody looked first at what the head says without them: forced."

    _show(done, as_json, lambda: list(render()))


def _rebase(plan: Any, *, by: str, reason: str, as_json: bool) -> None:
    """Carry the plan out with the later adapters trained again, and say how it went."""
    from service.rebase import rebase

    with Stopping().listening() as stopping, _bar() as report:
        done = rebase(
            context.settings,
            context.engine(),
            plan,
            by=by,
            reason=reason,
            report=report,
            stopping=stopping,
        )

    def render() -> Iterator[Any]:
        from service.tables import removal_tables, verdict_table

        for end in done.refreshes:
            yield f"Refresh {end.refresh_id}, adapter {end.adapter_id}: {end.outcome}."
            if end.verdict is not None:
                yield verdict_table(asdict(end.verdict))
        if done.removal is not None:
            yield from removal_tables(done.removal)
        if done.left:
            yield f"Facts of later adapters that are not in it: {', '.join(map(str, done.left))}."
        if done.rollback is None:
            yield "The head stays: not all of this passed."
        else:
            moved = done.rollback
            yield f"The head moved from release {moved.from_release} to {moved.to_release}."

    _show(done, as_json, lambda: list(render()))
    if done.rollback is None:
        raise typer.Exit(HEAD_STAYS)


def _show_removal(removal: Any, as_json: bool, *, is_dry: bool) -> None:
    """What was found where the head stays, and what can be done."""

    def tables() -> Sequence[Any]:
        from service.tables import removal_tables

        return removal_tables(removal)

    _show(removal, as_json, tables)
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


@app.command()
def export(
    to: Annotated[Path, typer.Option(help="A folder that is not there yet.")],
    release: Annotated[
        int | None, typer.Argument(min=1, max=views.MAX_ID, help="Default: the head.")
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
    _show(done, as_json, lambda: [f"Release {done.release_id} is in {to}, as {done.form}."])


@app.command()
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

    with Stopping().listening(), _bar() as report:
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
    _show(result, as_json, lambda: [*demo_tables(result), summary])
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


@contextmanager
def _bar() -> Iterator[Callable[[Any], None]]:
    """A progress bar with loss and time left on a terminal, plain lines elsewhere."""
    if not err.is_terminal:
        yield _plain_lines()
        return
    columns = (
        TextColumn("{task.description:12}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def report(progress: Any) -> None:
            if progress.steps == 0:
                return
            if progress.phase not in tasks:
                tasks[progress.phase] = bar.add_task(progress.phase, total=0, loss="")
            loss = "" if progress.loss is None else f"loss {progress.loss:.3f}"
            bar.update(
                tasks[progress.phase], completed=progress.step, total=progress.steps, loss=loss
            )

        yield report


def _plain_lines() -> Callable[[Any], None]:
    """About ten lines a phase, on stderr."""
    last: list[tuple[str, int]] = []

    def report(progress: Any) -> None:
        tenth = 10 * progress.step // progress.steps if progress.steps else 0
        if last and last[-1] == (progress.phase, tenth):
            return
        last.append((progress.phase, tenth))
        loss = "" if progress.loss is None else f", loss {progress.loss:.3f}"
        count = f" {progress.step}/{progress.steps}" if progress.steps else ""
        print(f"{progress.phase}{count}{loss}", file=sys.stderr)

    return report


# --- reading --------------------------------------------------------------------------------------


def _list_and_show(
    name: str,
    *,
    columns: Sequence[str],
    many: Callable[..., Any],
    one: Callable[..., Any],
    tables: Callable[[Any], Sequence[Any]] | None = None,
) -> None:
    """The `list` and `show` commands of one kind of thing."""

    def list_command(limit: Limit = 50, before: Before = None, as_json: Json = False) -> None:
        with reading(context.engine()) as session:
            page = many(session, before=before, limit=limit)

        def render() -> Sequence[Any]:
            from service.tables import table_of

            return [table_of(page.items, columns, title=name)]

        _show(page, as_json, render)

    def show_command(id_: Id, as_json: Json = False) -> None:
        with reading(context.engine()) as session:
            view = one(session, id_)

        def render() -> Sequence[Any]:
            from service.tables import details_of

            return tables(view) if tables else [details_of(view)]

        _show(view, as_json, render)

    groups[name].command("list", help=f"The newest {name}.")(list_command)
    groups[name].command("show", help=f"All that is recorded about one of the {name}.")(
        show_command
    )


def _fact_tables(view: Any) -> Sequence[Any]:
    from service.tables import fact_tables

    return fact_tables(view)


def _refresh_tables(view: Any) -> Sequence[Any]:
    from service.tables import refresh_tables

    return refresh_tables(view)


_list_and_show(
    "facts",
    columns=("id", "state", "source", "external_id", "statement", "recorded_at"),
    many=views.list_facts,
    one=views.show_fact,
    tables=_fact_tables,
)
_list_and_show(
    "refreshes",
    columns=("id", "started_at", "outcome", "facts", "adapter_id", "phase", "reason"),
    many=views.list_refreshes,
    one=views.show_refresh,
    tables=_refresh_tables,
)
_list_and_show(
    "adapters",
    columns=("id", "refresh_id", "outcome", "in_head", "facts", "trained_on", "created_at"),
    many=views.list_adapters,
    one=views.show_adapter,
)
_list_and_show(
    "releases",
    columns=("id", "is_head", "adapters", "created_at"),
    many=views.list_releases,
    one=views.show_release,
)


_list_and_show(
    "deliveries",
    columns=("id", "action", "release_id", "moved_at", "attempts", "delivered_at", "error"),
    many=views.list_deliveries,
    one=views.show_delivery,
)
_list_and_show(
    "pins",
    columns=("id", "question", "answers", "reason", "pinned_by", "removed_at"),
    many=views.list_pins,
    one=views.show_pin,
)


@groups["facts"].command("held")
def facts_held(
    release: Annotated[
        int | None, typer.Option(min=1, max=views.MAX_ID, help="Of this release, not of the head.")
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
        return [table_of(held.items, columns, title=f"facts of release {held.release_id}")]

    _show(held, as_json, render)


@groups["facts"].command("holders")
def facts_holders(fact: Id, as_json: Json = False) -> None:
    """The adapters that were trained on a fact or were shown it again, and their releases."""
    with reading(context.engine()) as session:
        views.show_fact(session, fact)  # says so where there is none
        holders = history.holders_of(session, fact)

    def render() -> Sequence[Any]:
        from service.tables import table_of

        columns = tuple(history.Holder.model_fields)
        return [table_of(holders, columns, title=f"adapters that hold fact {fact}")]

    _show([_plain(holder) for holder in holders], as_json, render)


@groups["releases"].command("diff")
def releases_diff(
    earlier: Annotated[int, typer.Argument(min=1, max=views.MAX_ID)],
    later: Annotated[int, typer.Argument(min=1, max=views.MAX_ID)],
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

    _show(changes, as_json, lambda: list(render()))


@groups["releases"].command("pin")
def releases_pin(release: Id, reason: Reason, as_json: Json = False) -> None:
    """Keep the composed model of a release on the disk, however old it gets."""
    from service.collect import pin_release
    from service.places import Places

    if not reason.strip():
        raise typer.BadParameter("A reason must hold at least one word.")
    by = getpass.getuser()
    with writing(context.engine()) as session:
        pin_release(session, release, by=by, reason=reason, now=datetime.now(UTC))
        view = views.show_release(session, release)
    place = Places(context.settings.state_dir).snapshot(view.recipe_digest)
    is_there = not view.adapters or place.is_dir()
    later = "" if is_there else " Its model is not there now; what asks for it composes it again."
    _show(view, as_json, lambda: [f"Release {release} is pinned.{later}"])


@groups["releases"].command("unpin")
def releases_unpin(release: Id) -> None:
    """Let the composed model of a release go when its time comes."""
    from service.collect import unpin_release

    with writing(context.engine()) as session:
        unpin_release(session, release)
    out.print(f"Release {release} is no longer pinned.")


@groups["deliveries"].command("secret")
def deliveries_secret(as_json: Json = False) -> None:
    """The secret that a receiver checks signatures with; made when it is first asked for."""
    from service.webhooks import webhook_secret

    secret = webhook_secret(context.settings)
    _show({"secret": secret}, as_json, lambda: [secret])


@groups["deliveries"].command("send")
def deliveries_send(move: Id, as_json: Json = False) -> None:
    """Tell the webhook's receiver about a head move now, whatever became of it before."""
    from service.webhooks import send

    engine = context.engine()
    was_taken = send(context.settings, engine, move, now=datetime.now(UTC))
    with reading(engine) as session:
        view = views.show_delivery(session, move)
    said = "was delivered" if was_taken else f"was not delivered: {view.error}"
    _show(view, as_json, lambda: [f"Head move {move} {said}."])
    if not was_taken:
        raise typer.Exit(1)


@app.command("gc")
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

    _show(found, as_json, lambda: list(render()))


@groups["adapters"].command("promote")
def adapters_promote(
    adapter: Id,
    reason: Annotated[str, typer.Option(help="Why; it is kept in the head's history.")],
    as_json: Json = False,
) -> None:
    """Let in, on your word, an adapter of which the gate could not tell."""
    from service.promotion import let_in

    if not reason.strip():
        raise typer.BadParameter("A reason must hold at least one word.")
    done = let_in(context.settings, context.engine(), adapter, by=getpass.getuser(), reason=reason)

    def lines() -> Iterator[str]:
        yield f"The head moved from release {done.from_release} to {done.to_release}."
        for fact, outcome in done.facts.items():
            yield f"Fact {fact}: {outcome}."

    _show(done, as_json, lambda: list(lines()))


@groups["facts"].command("retract")
def facts_retract(fact: Id) -> None:
    """Withdraw a fact. What an adapter learned of it stays until that adapter is taken out."""
    with writing(context.engine()) as session:
        facts.retract(session, fact, now=datetime.now(UTC))
    out.print(f"Fact {fact} is retracted.")


@groups["facts"].command("approve")
def facts_approve(fact: Id) -> None:
    """Let a fact that is held be trained: its source, or its own word, is not trusted by itself."""
    with writing(context.engine()) as session:
        facts.approve(session, fact, by=getpass.getuser(), now=datetime.now(UTC))
    out.print(f"Fact {fact} is approved; the next refresh may take it.")


@groups["facts"].command("review")
def facts_review(as_json: Json = False) -> None:
    """The facts that wait for a decision: held, expired, rejected, or given up after tries."""
    with reading(context.engine()) as session:
        review = views.facts_to_review(session, now=datetime.now(UTC))

    def render() -> Sequence[Any]:
        from service.tables import table_of

        return [
            table_of(review.items, ("id", "state", "source", "statement", "why"), title="review")
        ]

    _show(review, as_json, render)


# --- pins -----------------------------------------------------------------------------------------


@groups["pins"].command("add")
def pins_add(
    question: Annotated[str | None, typer.Option(help="A question of your own.")] = None,
    answer: Annotated[
        list[str] | None, typer.Option(help="An accepted answer; several times for several.")
    ] = None,
    refresh: Annotated[
        int | None, typer.Option(min=1, max=views.MAX_ID, help="Or: a refresh that asked it,")
    ] = None,
    probe: Annotated[str | None, typer.Option(help="and the probe's key there.")] = None,
    reason: Reason = "no reason given",
) -> None:
    """Pin a question: from now on a candidate that loses its answer fails."""
    by, now = getpass.getuser(), datetime.now(UTC)
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


@groups["pins"].command("remove")
def pins_remove(pin: Id) -> None:
    """Ask a pinned question no more."""
    with writing(context.engine()) as session:
        pins.unpin(session, pin, now=datetime.now(UTC))
    out.print(f"Pin {pin} is removed.")


# --- keys -----------------------------------------------------------------------------------------


@groups["keys"].command("create")
def keys_create(
    source: Annotated[str, typer.Argument(help="Who will send with it, such as a team's name.")],
    scope: Annotated[list[Scope], typer.Option(help="Give it several times for several.")],
    days: Annotated[int | None, typer.Option(min=1, help="How long it is good.")] = None,
    as_json: Json = False,
) -> None:
    """Make an API key and print it. It cannot be shown again."""
    now = datetime.now(UTC)
    with writing(context.engine()) as session:
        key = auth.create_key(
            session,
            source=source,
            scopes=set(scope),
            pepper=auth.read_pepper(context.settings.state_dir),
            now=now,
            expires_at=None if days is None else now + timedelta(days=days),
        )
    _show({"key": key, "source": source}, as_json, lambda: [key])


@groups["keys"].command("list")
def keys_list(as_json: Json = False) -> None:
    """All keys, without their secrets."""
    with reading(context.engine()) as session:
        keys = [views.KeyView.model_validate(key) for key in auth.list_keys(session)]

    def render() -> Sequence[Any]:
        from service.tables import table_of

        columns = ("id", "source", "scopes", "created_at", "expires_at", "revoked_at")
        return [table_of(keys, columns, title="keys")]

    _show([_plain(key) for key in keys], as_json, render)


@groups["keys"].command("revoke")
def keys_revoke(key: Annotated[str, typer.Argument(help="The key's id.")]) -> None:
    """Make a key useless at once."""
    with writing(context.engine()) as session:
        auth.revoke_key(session, key, now=datetime.now(UTC))
    out.print(f"Key {key} is revoked.")


if __name__ == "__main__":
    main()
