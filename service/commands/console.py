"""What every command shares: settings and database, output, progress, `list` and `show`."""

import getpass
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from sqlalchemy import Engine

from service import views
from service.db import check_at_head, make_engine, reading
from service.schemas import MAX_ID
from service.settings import DEFAULT_CONFIG, Settings, load_settings

HEAD_STAYS = 3

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Id = Annotated[int, typer.Argument(metavar="ID", min=1, max=MAX_ID)]
Limit = Annotated[int, typer.Option(min=1, max=views.MAX_PAGE)]
Before = Annotated[
    int | None, typer.Option(min=1, max=MAX_ID, help="Only those with a smaller id.")
]
Reason = Annotated[str, typer.Option(help="Why; it is kept with what is done.")]
out, err = Console(), Console(stderr=True)


def more_of(following: int | None) -> list[str]:
    """What stands under a table that does not show all."""
    return [] if following is None else [f"There are more: --before {following}"]


def _user() -> str:
    """The system's name for whoever types this; a container's user may have none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


class Context:
    """What every command needs, made when it is needed."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.by = _user()  #: who is on record for what is done
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


context = Context(DEFAULT_CONFIG)


def checked_reason(reason: str) -> str:
    """Raises BadParameter where it says nothing."""
    if not reason.strip():
        raise typer.BadParameter("A reason must hold at least one word.")
    return reason


def show(value: Any, as_json: bool, render: Callable[[], Sequence[Any]]) -> None:
    """The value as JSON, or what `render` makes of it."""
    if as_json:
        print(json.dumps(plain(value), ensure_ascii=False, default=str))
        return
    for part in render():
        out.print(part)


def plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


@contextmanager
def progress_bar() -> Iterator[Callable[[Any], None]]:
    """A progress bar with loss and time left on a terminal, plain lines elsewhere."""
    if not err.is_terminal:
        yield _lines()
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


def _lines() -> Callable[[Any], None]:
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


def list_and_show(
    group: typer.Typer,
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

            return [table_of(page.items, columns, title=name), *more_of(page.next)]

        show(page, as_json, render)

    def show_command(id_: Id, as_json: Json = False) -> None:
        with reading(context.engine()) as session:
            view = one(session, id_)

        def render() -> Sequence[Any]:
            from service.tables import details_of

            return tables(view) if tables else [details_of(view)]

        show(view, as_json, render)

    group.command("list", help=f"The newest {name}.")(list_command)
    group.command("show", help=f"All that is recorded about one of the {name}.")(show_command)
