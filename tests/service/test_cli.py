"""The command line: what it prints, and one sentence and an exit code when it refuses."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from rich.console import Console
from sqlalchemy import Engine

from service import cli
from service.commands.console import Context
from service.db import writing
from service.facts import FactState
from service.models import FactRow, MembershipOutcome
from service.schemas import MAX_ID
from service.tables import table_of


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Done]:
    """Run the command as the console script does."""

    def run_main(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["lorewright", "--config", str(config), *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return Done(int(ended.value.code or 0), captured.out, captured.err)

    return run_main


@pytest.mark.parametrize("name", ["facts", "refreshes", "adapters", "releases"])
def test_everything_can_be_listed_and_shown_as_json_and_as_a_table(
    run: Callable[..., Done],
    store: Callable[..., list[int]],
    promote: Callable[..., int],
    name: str,
) -> None:
    store("One.")
    promote()
    listed = run(name, "list", "--json").json["items"]
    assert listed[-1]["id"] == 1
    assert run(name, "show", "1", "--json").json["id"] == 1
    for table in (run(name, "list"), run(name, "show", "1")):
        assert (table.code, table.err) == (0, "")
        assert table.out.strip()


def test_a_list_says_where_to_read_on(
    run: Callable[..., Done], store: Callable[..., list[int]]
) -> None:
    store("One.", "Two.", "Three.")
    page = run("facts", "list", "--limit", "2", "--json").json
    assert [fact["id"] for fact in page["items"]] == [3, 2]
    rest = run("facts", "list", "--before", str(page["next"]), "--json").json
    assert [fact["id"] for fact in rest["items"]] == [1]


def test_text_that_was_sent_to_us_cannot_paint_the_terminal(
    run: Callable[..., Done], store: Callable[..., list[int]]
) -> None:
    store("[bold red]Ada[/] says [link=x]this[/link].")
    assert "[bold red]Ada[/]" in run("facts", "show", "1").out


def test_a_key_is_printed_once_and_works_until_it_is_revoked(
    run: Callable[..., Done], engine: Engine
) -> None:
    key = run("keys", "create", "archive", "--scope", "read", "--scope", "ingest").out.strip()
    prefix, key_id, secret = key.split("_")
    assert prefix == "lw"
    [shown] = run("keys", "list", "--json").json
    assert (shown["id"], shown["source"], shown["scopes"]) == (
        key_id,
        "archive",
        ["ingest", "read"],
    )
    assert secret not in run("keys", "list").out + run("keys", "list", "--json").out
    assert run("keys", "revoke", key_id).code == 0
    assert run("keys", "list", "--json").json[0]["revoked_at"] is not None


def test_a_retracted_fact_is_shown_as_such(
    run: Callable[..., Done], store: Callable[..., list[int]]
) -> None:
    store("One.")
    assert run("facts", "retract", "1").code == 0
    assert run("facts", "show", "1", "--json").json["state"] == FactState.RETRACTED


def test_an_erased_fact_is_listed_as_such_beside_the_receipt(
    run: Callable[..., Done], make_world: Callable[..., Any]
) -> None:
    make_world().push("Orlan Vess is the mayor of Tolmar.", "Orlan Vess sings in Tolmar.")
    shown = run("facts", "erase", "1", "--dry-run").out
    assert "statement" not in shown
    assert run("facts", "list", "--json").json["items"][-1]["state"] == FactState.PENDING
    done = run("facts", "erase", "1", "2", "--reason", "asked for it")
    assert (done.code, done.err) == (0, "")
    assert "Erasure 1 is complete" in done.out
    assert run("facts", "show", "2", "--json").json["state"] == FactState.ERASED
    [receipt] = run("erasures", "list", "--json").json["items"]
    assert receipt["fact_ids"] == [1, 2]
    assert receipt["completed_at"] is not None
    again = run("facts", "erase", "1", "--reason", "x")
    assert (again.code, again.err.partition(" at ")[0]) == (1, "Fact 1 was erased")


def test_an_erasure_that_is_not_complete_says_what_is_left(
    run: Callable[..., Done], make_world: Callable[..., Any]
) -> None:
    world = make_world()
    world.push("Orlan Vess is the mayor of Tolmar.")
    (world.settings.state_dir / "notes.txt").write_text("Orlan Vess")
    done = run("facts", "erase", "1", "--reason", "asked for it")
    assert done.code == 1
    assert "their text still stands in notes.txt" in " ".join(done.out.split())


def test_what_waits_for_a_decision_is_listed_with_its_reason_and_approved(
    run: Callable[..., Done],
    store: Callable[..., list[int]],
    promote: Callable[..., int],
    engine: Engine,
    now: datetime,
) -> None:
    [stubborn] = store("Stubborn.")
    for at in range(2):
        promote(MembershipOutcome.UNLEARNED)
        store(f"Another {at}.")
    [over, held] = store({"statement": "Over.", "valid_to": now}, "Held.")
    with writing(engine) as session:
        session.get_one(FactRow, held).held_reason = "its trust is 'low'"
    review = run("facts", "review", "--json").json["items"]
    assert [(item["id"], item["state"]) for item in review] == [
        (held, "held"), (stubborn, "quarantined"), (over, "expired"),
    ]  # fmt: skip
    assert review[0]["why"] == "its trust is 'low'; approve or retract it"
    assert "retract it" in review[2]["why"]
    assert "Held." in run("facts", "review").out
    assert run("facts", "approve", str(held)).code == 0
    assert run("facts", "show", str(held), "--json").json["state"] == FactState.PENDING
    assert run("facts", "retract", str(over)).code == 0
    assert len(run("facts", "review", "--json").json["items"]) == 1


def test_what_was_rejected_waits_for_a_decision_with_its_reason(
    run: Callable[..., Done], store: Callable[..., list[int]], reject: Callable[..., int]
) -> None:
    store("One.", "Two.")
    adapter_id = reject()
    (first, second) = run("facts", "review", "--json").json["items"]
    assert (first["state"], first["why"]) == (
        "rejected", "it forgot; send it anew, or retract it",
    )  # fmt: skip
    done = run("adapters", "promote", str(adapter_id), "--reason", "I know better")
    assert (done.code, "ended as rejected" in done.err) == (1, True)
    assert run("facts", "retract", str(second["id"])).code == 0
    assert len(run("facts", "review", "--json").json["items"]) == 1


@pytest.mark.usefixtures("engine")
def test_a_question_is_pinned_listed_and_removed(run: Callable[..., Done]) -> None:
    question = ("--question", "What is the capital of Norway?")
    assert run("pins", "add", *question, "--answer", "Oslo", "--reason", "it broke").code == 0
    (listed,) = run("pins", "list", "--json").json["items"]
    assert (listed["answers"], listed["reason"]) == (["Oslo"], "it broke")
    assert run("pins", "remove", "1").code == 0
    assert run("pins", "show", "1", "--json").json["removed_at"] is not None


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["pins", "add"], 2, "Give --question with --answer, or --refresh with --probe."),
        (["pins", "add", "--refresh", "1", "--probe", "x"], 1, "Refresh 1 asked no probe x."),
        (["pins", "remove", "4711"], 1, "There is no pin 4711."),
        (["facts", "approve", "4711"], 1, "There is no fact 4711."),
        (["facts", "show", "4711"], 1, "There is no fact 4711."),
        (["adapters", "show", "4711"], 1, "There is no adapter 4711."),
        (["adapters", "promote", "4711", "--reason", "x"], 1, "There is no adapter 4711."),
        (["adapters", "promote", "1"], 2, ""),
        (["adapters", "promote", "1", "--reason", " "], 2, ""),
        (["keys", "revoke", "nobody"], 1, "There is no key nobody."),
        (["facts", "retract", "4711"], 1, "There is no fact 4711."),
        (["facts", "erase", "4711", "--reason", "x"], 1, "There is no fact 4711."),
        (["facts", "erase", "1", "4711", "--dry-run"], 1, "There is no fact 1."),
        (["facts", "erase", "1"], 2, ""),
        (["facts", "erase", "1", "--dry-run", "--force"], 2, ""),
        (["erasures", "show", "4711"], 1, "There is no erasure 4711."),
        (["facts", "show", str(MAX_ID + 1)], 2, ""),
        (["facts", "show", "x"], 2, ""),
        (["rollback", "4711", "--reason", "r"], 1, "There is no adapter 4711."),
        (["rollback", "--to", "4711", "--reason", "r"], 1, "There is no release 4711."),
        (["rollback"], 2, "Name either an adapter or a release to go back to."),
        (
            ["rollback", "--to", "1", "--force"],
            2,
            "--force: only for taking an adapter out.",
        ),
        (["rollback", "1", "--dry-run", "--force"], 2, "--dry-run and --force do not go together."),
        (["ask", "Who?", "  "], 2, ""),
        (["facts", "list", "--limit", "0"], 2, ""),
        (["keys", "create", "archive", "--scope", "everything"], 2, ""),
        (["keys", "create", "archive"], 2, ""),
        (["no-such-command"], 2, ""),
    ],
)
def test_a_refusal_is_a_sentence_on_stderr_and_an_exit_code(
    run: Callable[..., Done], engine: Engine, arguments: list[str], code: int, sentence: str
) -> None:
    done = run(*arguments)
    assert (done.code, done.out) == (code, "")
    assert done.err.strip() == sentence or not sentence
    assert done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("command", [["facts", "list"], ["db", "check"], ["serve"]])
def test_before_init_every_command_says_what_to_run(
    run: Callable[..., Done], command: list[str]
) -> None:
    done = run(*command)
    assert done.code == 1
    assert "lorewright init" in done.err


def test_wrong_settings_end_with_the_exit_code_of_wrong_usage(
    run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOREWRIGHT_API__PRT", "1")
    done = run("facts", "list")
    assert done.code == 2
    assert "api.prt" in done.err


@pytest.mark.sqlite
def test_a_state_directory_that_cannot_be_made_is_a_sentence(
    run: Callable[..., Done], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOREWRIGHT_STATE_DIR", str(config / "below a file"))
    done = run("db", "upgrade")
    assert done.code == 1
    assert "below a file" in done.err


@pytest.mark.parametrize(
    "first",
    [
        "MemoryError",
        "OSError(12, 'Cannot allocate memory')",
        "RuntimeError('DefaultCPUAllocator: can\\'t allocate memory')",
    ],
)
def test_a_command_without_memory_says_so_and_wants_none_for_that(first: str) -> None:
    script = (
        "from service import cli\n"
        "def exhausted(*_, **__): raise MemoryError\n"
        "cli.err.print = exhausted\n"
        f"def app(): raise {first}\n"
        "cli.app = app\n"
        "cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 1
    assert done.stderr.decode().startswith("There is not enough memory for this")


@pytest.mark.sqlite
def test_a_file_that_is_no_database_is_a_sentence(run: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "lorewright.db").write_bytes(b"no database at all" * 100)
    done = run("facts", "list")
    assert done.code == 1
    assert "The database failed" in done.err


@pytest.mark.sqlite
def test_the_ways_back_as_they_are_typed(
    run: Callable[..., Done], make_world: Callable[..., Any]
) -> None:
    world = make_world()
    for statement in ("Orlan Vess is the mayor of Tolmar.", "Lake Ux lies in Ardun."):
        world.push(statement)
        world.refresh()
    said = run("facts", "retract", "1").out
    assert "Fact 1 is retracted." in said
    assert "The head still knows it by adapter 1: `lorewright rollback 1 --dry-run`" in said
    told = run("rollback", "1", "--dry-run")
    assert (told.code, world.head().release_id) == (0, 3)
    assert "bits per byte" in told.out
    refused = run("rollback", "1")
    assert (refused.code, world.head().release_id) == (2, 3)
    assert "A reason must hold at least one word." in refused.err
    done = run("rollback", "1", "--reason", "wrong source")
    assert done.code == 0
    assert done.out.index("bits per byte") < done.out.index("The head moved from release 3 to 4.")
    assert run("rollback", "--to", "3", "--reason", "it was right").code == 0
    again = run("rollback", "1", "--rebase", "--reason", "wrong source")
    assert again.code == 0
    assert again.out.index("bits per byte") < again.out.index("The head moved from release 3 to")
    assert run("rollback", "--to", "3", "--reason", "it was right").code == 0
    later = run("rollback", "1", "--with-later", "--reason", "all of it", "--json").json
    assert (later["to_release"], later["taken_out"]) == (1, [1, 2])
    assert run("rollback", "--to", "3", "--reason", "it was right").code == 0
    world.push("Mira Zun leads the Bregal choir.")
    world.refresh()
    forced = run("rollback", "2", "--force", "--reason", "at once")
    assert "Nobody looked first at what the head says without them: forced." in forced.out
    assert 2 not in world.head().recipe.adapter_ids


def test_a_narrow_terminal_cuts_nothing_off() -> None:
    scopes = "ingest,read,admin,metrics,something-that-is-long"
    rows = [
        SimpleNamespace(id="7f3a9c01d2e4b586", source="a-source-with-a-long-name", scopes=scopes)
    ]
    console = Console(width=40, record=True, file=io.StringIO())
    console.print(table_of(rows, ("id", "source", "scopes"), title="keys"))
    shown = console.export_text()
    assert "…" not in shown
    assert rows[0].id in shown
    letters = "".join(line[line.rfind("│", 0, -2) :] for line in shown.splitlines() if "│" in line)
    assert "".join(filter(str.isalpha, letters)) == "".join(filter(str.isalpha, scopes))


def test_a_refresh_without_facts_says_how_many_an_admin_holds_up(
    run: Callable[..., Done], engine: Engine, store: Callable[..., list[int]]
) -> None:
    assert "review" not in run("refresh").out
    held, _ = store("One.", "Two.")
    with writing(engine) as session:
        session.get_one(FactRow, held).held_reason = "low trust"
    said = run("refresh", "--at-least", "2").out
    assert "Fewer than 2 facts are waiting" in said
    assert "Held for an admin are 1: lorewright facts review." in said


def test_the_version_is_told(run: Callable[..., Done]) -> None:
    assert run("--version").out.strip() == version("lorewright")


def test_what_waits_for_an_admin_comes_before_what_has_ended(
    run: Callable[..., Done], engine: Engine, store: Callable[..., list[int]], now: datetime
) -> None:
    ended, held = store("One.", "Two.")
    with writing(engine) as session:
        session.get_one(FactRow, ended).valid_to = now
        session.get_one(FactRow, held).held_reason = "its trust is low"
    assert [item["id"] for item in run("facts", "review", "--json").json["items"]] == [held, ended]


def test_the_settings_in_force_are_printed_without_what_lets_one_in(
    run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOREWRIGHT_SCHEDULE__AT_LEAST", "5")
    monkeypatch.setenv("LOREWRIGHT_WEBHOOK__URL", "https://example.org/hush?token=hush")
    monkeypatch.setenv("LOREWRIGHT_DATABASE_URL", "postgresql+psycopg://me:hush@db/facts")
    done = run("settings")
    told = yaml.safe_load(done.out)
    assert (told["schedule"]["at_least"], told["webhook"]["url"]) == (5, "https://example.org/...")
    assert told["database_url"] == "postgresql+psycopg://me:***@db/facts"
    assert "hush" not in done.out
    assert run("settings", "--json").json == told


def test_a_user_without_a_name_is_on_record_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that is run under any number."""

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert Context(Path("settings.yaml")).by == f"uid {os.getuid()}"
