"""How things look on a terminal. Data in, rich renderables out; printing is the CLI's."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from rich.markup import escape
from rich.table import Table

from adapters.types import ASKED_WHETHER, Suite
from service.demo import Asked, DemoResult
from service.views import ControlView, FactDetail, RefreshDetail

if TYPE_CHECKING:  # it loads torch, which takes longer than to print a list
    from service.removal import Removal

MAX_CELL = 72  #: characters; --json has the whole


def table_of(rows: Sequence[Any], columns: Sequence[str], *, title: str) -> Table:
    """A list of views, or of whatever has these fields, as a table of them."""
    table = Table(title=title, title_justify="left")
    for column in columns:  # an id is there to be typed: it is never cut off
        table.add_column(column.replace("_", " "), no_wrap=column == "id", overflow="fold")
    for row in rows:
        table.add_row(*(cell(getattr(row, column)) for column in columns))
    return table


def details_of(view: BaseModel | Mapping[str, Any], *, leave_out: Iterable[str] = ()) -> Table:
    """One view, or what has names, a field a line."""
    table = Table(show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    fields = view if isinstance(view, Mapping) else dict(view)
    for name, value in fields.items():
        if name not in leave_out:
            table.add_row(name.replace("_", " "), cell(value, limit=2000))
    return table


def cell(value: Any, *, limit: int = MAX_CELL) -> str:
    """One value as plain text; nothing that was sent to us is read as markup."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    if hasattr(value, "isoformat"):
        return f"{value:%Y-%m-%d %H:%M:%S}"  # always UTC
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    text = "".join(character if character.isprintable() else " " for character in text)
    return escape(text if len(text) <= limit else f"{text[: limit - 1]}…")


def fact_tables(fact: FactDetail) -> list[Table]:
    tables = [details_of(fact, leave_out=("memberships", "probes"))]
    if fact.memberships:
        columns = ("batch_id", "refresh_id", "adapter_id", "outcome", "decided_at", "reason")
        tables.append(table_of(fact.memberships, columns, title="batches"))
    return tables


def refresh_tables(refresh: RefreshDetail) -> list[Table]:
    long = ("verdict", "losses", "probes", "control", "passages", "fact_ids", "left_out")
    tables = [details_of(refresh, leave_out=long)]
    if refresh.verdict:
        tables.append(verdict_table(refresh.verdict))
    if refresh.control:
        title = "the batch's own questions: answered, answered with nothing else, ROUGE-1 recall"
        tables.append(table_of(refresh.control, tuple(ControlView.model_fields), title=title))
    if refresh.losses:
        tables.append(loss_table(refresh))
    if refresh.probes:
        tables.append(answer_table(refresh))
    if refresh.left_out:
        title = "not asked, since another answer is right, too"
        tables.append(table_of(refresh.left_out, ("fact_id", "direction", "reason"), title=title))
    return tables


def verdict_table(verdict: dict[str, Any]) -> Table:
    """The gate's verdict: one line a suite, the reasons below."""
    table = Table(title=f"verdict: {verdict['outcome']}", title_justify="left")
    reasons = (f"{suite['suite']}: {suite['reason']}" for suite in verdict["suites"])
    table.caption, table.caption_justify = escape("\n".join(reasons)), "left"
    for name in ("suite", "before", "after", "change", "interval", "margin", "power", "verdict"):
        table.add_column(name)
    for suite in verdict["suites"]:
        interval = suite["interval"]
        table.add_row(
            suite["suite"],
            cell(suite["before"]),
            cell(suite["after"]),
            cell(suite["difference"]),
            f"{interval[0]:.3f}..{interval[1]:.3f}" if interval else "-",
            cell(suite["margin"]),
            cell(suite.get("power")),  # verdicts of earlier versions have none
            suite["outcome"],
        )
    return table


def removal_tables(removal: "Removal") -> list[Table]:
    """What the head would say without some adapters: the verdict, and every removed fact."""
    table = Table(title="what is said of the removed facts", title_justify="left")
    for name in ("fact", "question", "not wanted", "head", "without", "base"):
        table.add_column(name)
    for answer in removal.answers:
        table.add_row(
            str(answer.fact_id),
            cell(answer.question),
            cell(answer.wanted),
            cell(answer.head),
            marked(answer.without, is_right=not answer.is_answered),
            cell(answer.base),
        )
    return [table, verdict_table(asdict(removal.verdict))]


def loss_table(refresh: RefreshDetail) -> Table:
    """The loss curve at about ten points."""
    every = max(1, len(refresh.losses) // 10)
    picked = refresh.losses[::every]
    if picked[-1] is not refresh.losses[-1]:
        picked = [*picked, refresh.losses[-1]]
    return table_of(
        picked, ("step", "loss", "drift", "tokens"), title="loss and drift (nats a token)"
    )


#: Suites whose answers must not come, and what is wanted there.
UNWANTED: dict[str, str] = {
    Suite.LEAKAGE: "nothing learned",
    Suite.SUPERSEDED: "not the old answer",
    Suite.PLANTED: "nothing that facts of the batch share",
}


def answer_table(refresh: RefreshDetail) -> Table:
    """The facts' own probes before and after; those of other suites only where that changed."""
    shown = [
        probe
        for probe in refresh.probes
        if probe.suite not in ASKED_WHETHER or probe.contained_before != probe.contained_after
    ]
    table = Table(
        title="probes (of other suites than acquisition: what changed)", title_justify="left"
    )
    for name in ("suite", "question", "wanted", "before", "after"):
        table.add_column(name)
    for probe in shown:
        unwanted = UNWANTED.get(probe.suite)  # what must not come is listed there
        table.add_row(
            probe.suite,
            cell(probe.question),
            cell(unwanted or probe.answers[0]),
            marked(probe.before, is_right=probe.contained_before is (unwanted is None)),
            marked(probe.after, is_right=probe.contained_after is (unwanted is None)),
        )
    return table


def demo_tables(result: DemoResult) -> list[Table]:
    table = Table(title="what the model says", title_justify="left", show_lines=True)
    promoted = result.refresh["outcome"] == "promoted"
    after = "after the refresh" if promoted else "the candidate, not let in"
    for name in ("asked", "before", after, "after the rollback"):
        table.add_column(name, ratio=1)
    for asked in result.asked:
        table.add_row(
            f"{asked.suite.removeprefix('acquisition ')}: {cell(asked.question)}",
            marked(asked.before, is_right=asked.known_before),
            marked(asked.after, is_right=asked.known_after),
            _after_rollback(asked),
        )
    verdict = result.refresh["verdict"]
    return [table, verdict_table(verdict)] if verdict else [table]


def _after_rollback(asked: Asked) -> str:
    if asked.rolled_back is None:
        return "-"
    if asked.rolled_back == asked.before:
        return "[dim]as before, token for token[/dim]"
    return marked(asked.rolled_back, is_right=bool(asked.known_rolled_back))


def marked(text: str, *, is_right: bool) -> str:
    return f"[green]✓[/green] {cell(text)}" if is_right else f"[red]✗[/red] {cell(text)}"
