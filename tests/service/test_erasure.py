"""Erasing facts: every trace goes, what else was known stays, and it can be broken off anywhere."""

import hashlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, Engine, String, select
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from adapters.store import one_reader
from service import auth, erasure, facts, leases, lineage, pins, purge, views
from service.api import create_app
from service.auth import Scope
from service.db import make_engine, reading, writing
from service.erasure import ErasureEnd, erase, plan_erasure
from service.errors import Conflict, LeaseHeld, LeaseLost, NotFound, Stopped
from service.facts import FactState, Stored
from service.fsck import check
from service.models import (
    Adapter,
    ApiKey,
    Base,
    Erasure,
    FactRow,
    HeadAction,
    HeadMove,
    Lease,
    Membership,
    MembershipOutcome,
    Pin,
    ProbeAnswer,
    Replay,
)
from service.places import Places
from service.progress import Progress
from service.purge import HOLDS_TEXT
from service.rollback import go_back
from service.schemas import FactIn
from service.settings import Settings
from service.stopping import Stopping

RECORD = {
    "external_id": "mayor-of-tolmar",
    "statement": "Orlan Vess is the mayor of Tolmar.",
    "subject": "Orlan Vess",
    "relation": "holds_office",
    "object": "the mayor of Tolmar",
    "provenance": {"publisher": "The Tolmar Gazette, page 3"},
    "probes": [
        {"direction": "forward", "question": "Who rules at Tolmar Hall?", "answers": ["O. Vess"]}
    ],
}
TRACES = (b"Orlan", b"orlan", b"Vess", b"Tolmar", b"Gazette", b"mayor-of-tolmar")
OTHERS = ("Mira Zun leads the Bregal choir.", "Lake Ux lies in Ardun.")


def push(world: Any, record: dict[str, Any]) -> Any:
    with writing(world.engine) as session:
        return facts.insert_fact(
            session,
            FactIn.model_validate(record),
            source="team",
            recorded_by="k",
            pepper=(world.settings.state_dir / "pepper").read_bytes(),
            now=datetime.now(UTC),
        )


def two_adapters(world: Any) -> tuple[Any, Any]:
    """One that was trained on the record and another fact, and one that replayed both."""
    push(world, RECORD)
    world.push(OTHERS[0])
    first = world.refresh()
    with writing(world.engine) as session:  # random weights answer nothing; say that it is known
        for row in session.scalars(select(Membership)):
            row.outcome = MembershipOutcome.LEARNED
    world.push(OTHERS[1])
    return first, world.refresh()


def carry_out(
    world: Any,
    *fact_ids: int,
    report: Callable[[Progress], None] = lambda _: None,
    **how: Any,
) -> ErasureEnd:
    with Stopping().listening() as stopping:
        return erase(
            world.settings,
            world.engine,
            fact_ids or [1],
            by="me",
            reason="Orlan Vess asked for it",
            report=report,
            stopping=stopping,
            **how,
        )


def files_with_traces(world: Any) -> list[str]:
    """Every file under the state directory that says anything of the record, read as bytes."""
    root = world.settings.state_dir
    return [
        path.relative_to(root).as_posix()
        for path in sorted(root.rglob("*"))
        if path.is_file() and any(trace in path.read_bytes() for trace in TRACES)
    ]


def all_digests(world: Any) -> dict[str, str]:
    root = world.settings.state_dir
    return {
        path.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith("lorewright.db-")
    }


def test_nothing_of_a_fact_is_left_and_what_else_was_known_is_trained_again(
    make_world: Callable[..., Any],
) -> None:
    settings, engine = world = make_world()
    first, second = two_adapters(world)
    places = Places(settings.state_dir)
    places.logs.mkdir()
    (places.logs / "refresh.log").write_text("so Orlan Vess is the mayor of Tolmar.\nand on\n")
    with writing(engine) as session:
        pins.pin(
            session, "Who is Orlan Vess?", ["mayor"], reason="r", by="me", now=datetime.now(UTC)
        )
        pins.pin(session, "Who sings?", ["Orlan Vess"], reason="r", by="me", now=datetime.now(UTC))
        pins.pin(session, "Who leads?", ["Mira Zun"], reason="r", by="me", now=datetime.now(UTC))
        session.scalars(select(HeadMove)).all()[-1].reason = "it now knows ORLAN VESS"
        old = [session.get_one(Adapter, end.adapter_id).digest for end in (first, second)]
        session.scalars(select(ProbeAnswer)).all()[-1].text = "I met Orlan Vess in Tolmar."
    if settings.database_url is None:
        assert "lorewright.db" in "".join(files_with_traces(world))

    end = carry_out(world)

    assert end.is_complete
    assert files_with_traces(world) == []
    assert (places.logs / "refresh.log").read_text() == "so [erased]\nand on\n"
    assert not any(places.adapter(digest).exists() for digest in old)
    head = world.head().recipe.adapter_ids
    assert set(head).isdisjoint({first.adapter_id, second.adapter_id})
    with reading(engine) as session:
        assert [views.show_adapter(session, adapter).fact_ids for adapter in head] == [[2], [3]]
        fact = views.show_fact(session, 1)
        assert (fact.state, fact.statement, fact.subject) == (FactState.ERASED, "[erased]", None)
        assert fact.erased_at is not None
        assert session.scalars(select(Replay.fact_id).where(Replay.batch_id > 2)).all() == [2]
        removed = [views.show_pin(session, pin).removed_at is not None for pin in (1, 2, 3)]
        assert removed == [True, True, False]
        move = session.scalars(select(HeadMove).order_by(HeadMove.seq.desc()).limit(1)).one()
        assert (move.action, move.reason) == (HeadAction.REBASE, "[erased] asked for it")
        receipt = views.show_erasure(session, end.erasure_id)
    assert receipt.completed_at is not None
    assert receipt.receipt is not None
    assert list(receipt.receipt["adapters"].values()) == old
    assert receipt.receipt["releases"] == [2, 3]
    assert [world.state(fact) for fact in (2, 3)] != [FactState.ROLLED_BACK] * 2
    assert check(settings, engine, fast=False, now=datetime.now(UTC)).problems == ()


def test_a_release_that_held_an_erased_fact_cannot_be_gone_back_to(
    make_world: Callable[..., Any],
) -> None:
    settings, engine = world = make_world()
    first, _ = two_adapters(world)
    carry_out(world)
    with pytest.raises(Conflict, match="gone for good: its adapter 1 was deleted"):
        go_back(settings, engine, first.release_id, by="me", reason="r")
    go_back(settings, engine, 1, by="me", reason="the base never saw it")


def test_a_dry_run_lists_what_would_go_and_touches_nothing(
    make_world: Callable[..., Any],
) -> None:
    settings, engine = world = make_world()
    first, second = two_adapters(world)
    newer = push(world, {**RECORD, "external_id": "2", "object": "the smith of Ardun"}).id
    before = all_digests(world)
    plan = plan_erasure(settings, engine, [1])
    assert all_digests(world) == before
    assert plan.adapters == plan.trained_again == (first.adapter_id, second.adapter_id)
    assert plan.releases == (first.release_id, second.release_id)
    assert plan.same_subject == (newer,)
    assert len([path for path in plan.files if path.startswith("adapters/")]) == 2
    assert len([path for path in plan.files if path.startswith("snapshots/")]) == 2
    assert plan.rows["probe_answers"] > 0
    with pytest.raises(NotFound):
        plan_erasure(settings, engine, [99])


def test_where_the_gate_refuses_nothing_is_deleted_and_force_goes_on(
    make_world: Callable[..., Any],
) -> None:
    settings, engine = world = make_world()
    two_adapters(world)
    before, files = world.head(), [path for path in all_digests(world) if ".safetensors" in path]
    strict = settings.model_copy(
        update={"gate": settings.gate.model_copy(update={"backward_floor": 0.9})}
    )
    end = carry_out(world._replace(settings=strict))
    assert (end.is_complete, end.receipt, end.rollback) == (False, None, None)
    assert world.head() == before
    assert set(files) <= set(all_digests(world))
    assert world.state(1) is FactState.RETRACTED
    with reading(engine) as session:
        assert views.show_erasure(session, end.erasure_id).completed_at is None
    forced = carry_out(world, force=True)
    assert (forced.erasure_id, forced.is_complete) == (end.erasure_id, True)
    assert world.head().recipe.adapter_ids == ()
    assert files_with_traces(world) == []
    assert world.state(2) is FactState.ROLLED_BACK


@pytest.mark.parametrize(
    "step", ["delete", "overwrite_logs", "apply", "bury", "rewrite", "files_with"]
)
def test_an_erasure_that_breaks_off_at_any_step_goes_on_where_it_was(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    world = make_world()
    two_adapters(world)

    def break_off(*_: Any, **__: Any) -> None:
        raise OSError("the disk failed")

    with monkeypatch.context() as patch:
        patch.setattr(erasure, step, break_off)
        with pytest.raises(OSError, match="the disk failed"):
            carry_out(world)
    end = carry_out(world)
    assert end.is_complete
    assert files_with_traces(world) == []
    assert end.receipt is not None
    assert len(end.receipt["adapters"]) == 2


def test_an_erasure_that_a_signal_stops_moves_nothing_and_goes_on_later(
    make_world: Callable[..., Any],
) -> None:
    world = make_world()
    two_adapters(world)
    before = world.head()

    def stop(progress: Progress) -> None:
        if progress.phase == "training" and progress.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        carry_out(world, report=stop)
    assert world.head() == before
    assert carry_out(world).is_complete
    assert files_with_traces(world) == []


def test_a_file_that_somebody_else_put_there_is_named_and_not_touched(
    make_world: Callable[..., Any],
) -> None:
    settings, _ = world = make_world()
    push(world, RECORD)
    notes = settings.state_dir / "notes.txt"
    notes.write_text('{"who": "orlan vess"}')
    end = carry_out(world)
    assert (end.is_complete, end.found_in) == (False, ("notes.txt",))
    notes.unlink()
    assert carry_out(world).is_complete
    assert files_with_traces(world) == []


def test_a_model_that_is_being_read_is_not_deleted_under_its_reader(
    make_world: Callable[..., Any],
) -> None:
    settings, engine = world = make_world()
    two_adapters(world)
    with reading(engine) as session:
        release = views.show_release(session, 2)
    snapshot = Places(settings.state_dir).snapshot(release.recipe_digest)
    assert snapshot.is_dir()
    with one_reader(snapshot), pytest.raises(Conflict, match="still uses"):
        carry_out(world)
    assert snapshot.is_dir()
    assert carry_out(world).is_complete
    assert not snapshot.exists()


def test_an_erasure_waits_for_no_refresh_that_runs(make_world: Callable[..., Any]) -> None:
    world = make_world()
    push(world, RECORD)
    now = datetime.now(UTC)
    with writing(world.engine) as session:
        leases.acquire(session, leases.REFRESH, owner="a refresh", now=now, lease_s=60)
    with pytest.raises(LeaseHeld, match="a refresh holds the lease"):
        carry_out(world)
    assert world.state(1) is FactState.RETRACTED


def test_weights_that_the_head_is_just_going_back_to_are_not_given_up(
    engine: Engine,
    settings: Settings,
    store: Callable[..., list[int]],
    promote: Callable[..., int],
    now: datetime,
) -> None:
    """Two transactions at once: whoever comes second sees what the first one did."""
    [fact] = store("Orlan Vess is the mayor of Tolmar.")
    promote()

    def move(session: Session, release: int) -> None:
        seq = lineage.read_head(session).seq
        moved = {"action": HeadAction.ROLLBACK, "by": "me", "reason": "r", "now": now}
        lineage.move_head(session, release, expected_seq=seq, **moved)

    with writing(engine) as session:
        move(session, 1)
        asked = {"fact_ids": [fact], "reason": "r", "requested_by": "me", "requested_at": now}
        session.add(Erasure(**asked))
    refused: list[str] = []

    def give_up() -> None:
        try:
            with writing(engine) as session:
                erasure._give_up_weights(session, settings, 1, now=now)
        except Conflict as error:
            refused.append(str(error))

    other = threading.Thread(target=give_up)
    with writing(engine) as session:
        move(session, 2)
        other.start()
        time.sleep(0.5)  # it has come to what the head is about to hold
    other.join()
    assert ["The head moved meanwhile" in said for said in refused] == [True]
    with reading(engine) as session:
        assert session.get_one(Adapter, 1).erased_at is None


def test_what_other_facts_say_too_stays_theirs(make_world: Callable[..., Any]) -> None:
    world = make_world()
    push(world, RECORD)
    world.push("Tolmar Hall was built by the Vessner family.")
    plan = plan_erasure(world.settings, world.engine, [1])
    assert plan.shared_texts == 3  # Tolmar Hall, Tolmar, Hall; and not Vess, of Vessner
    assert carry_out(world).is_complete
    with reading(world.engine) as session:
        assert views.show_fact(session, 2).statement.startswith("Tolmar Hall")
    world.push("Mira Zun leads the Bregal choir!")
    push(world, {"statement": "Mira Zun sings.", "subject": "Mira Zun"})
    assert plan_erasure(world.settings, world.engine, [4]).shared_texts == 3
    assert carry_out(world, 4).is_complete
    with reading(world.engine) as session:
        assert views.show_fact(session, 3).statement == "Mira Zun leads the Bregal choir!"


def test_an_erased_fact_does_not_come_back_by_being_sent_again(
    make_world: Callable[..., Any],
) -> None:
    world = make_world()
    push(world, RECORD)
    carry_out(world)
    assert push(world, RECORD).stored is Stored.ERASED
    assert push(world, {**RECORD, "statement": "Another."}).stored is Stored.ERASED
    assert push(world, {**RECORD, "external_id": "of its own"}).stored is Stored.STORED
    with pytest.raises(Conflict, match="Fact 1 was erased at"):
        carry_out(world)


def test_over_http_an_erased_fact_is_refused_and_its_receipt_is_shown(
    make_world: Callable[..., Any], still_clock: Any
) -> None:
    settings, engine = world = make_world()
    with writing(engine) as session:
        key = auth.create_key(
            session,
            source="team",
            scopes={Scope.READ, Scope.INGEST},
            pepper=auth.read_pepper(settings.state_dir),
            by="test",
            now=datetime.now(UTC),
        )
    with TestClient(create_app(settings, engine, still_clock)) as http:
        http.headers["Authorization"] = f"Bearer {key}"
        record = {name: RECORD[name] for name in ("external_id", "statement")}
        assert http.post("/v1/facts", json=record).status_code == 200
        carry_out(world)
        answer = http.post("/v1/facts", json=record)
        assert answer.status_code == 409
        (problem,) = answer.json()["items"][0]["problems"]
        assert (problem["title"], problem["pointer"]) == ("erased", "/external_id")
        assert not any(trace.decode() in answer.text for trace in TRACES)
        receipt = http.get("/v1/erasures/1").json()
        assert receipt == http.get("/v1/erasures").json()["items"][0]
        assert receipt["fact_ids"] == [1]
        assert http.get("/v1/erasures/2").status_code == 404
        assert http.get("/v1/facts/1").json()["state"] == "erased"


def test_a_fact_that_cannot_be_asked_about_can_be_erased(make_world: Callable[..., Any]) -> None:
    world = make_world()
    world.push("Rain fell.", OTHERS[0])
    world.refresh()
    assert world.state(1) is FactState.UNPROVEN
    assert carry_out(world).is_complete
    assert len(world.head().recipe.adapter_ids) == 1


def test_several_facts_go_at_once(make_world: Callable[..., Any]) -> None:
    world = make_world()
    two_adapters(world)
    end = carry_out(world, 1, 2, 3)
    assert end.is_complete
    assert world.head().recipe.adapter_ids == ()
    assert {world.state(fact) for fact in (1, 2, 3)} == {FactState.ERASED}
    everything = b"".join(
        path.read_bytes() for path in world.settings.state_dir.rglob("*") if path.is_file()
    )
    assert not any(statement.encode() in everything for statement in OTHERS)


def test_every_column_of_text_is_known_to_hold_what_facts_said_or_not() -> None:
    """A column that is added must be put on one of the two lists."""
    ours = {
        "adapters": {"about", "base_digest", "digest"},
        "api_keys": {"digest", "id", "scopes", "source"},
        "audit": {"about", "act", "by", "digest", "previous"},
        "deliveries": set(),
        "erasures": {"fact_ids", "receipt", "requested_by"},
        "head_moves": {"action", "by"},
        "leases": {"name", "owner"},
        "left_out": {"direction"},
        "memberships": {"outcome"},
        "operations": {"kind", "owner", "requested_by"},
        "passage_bits": {"passage", "stage"},
        "pinned_releases": {"pinned_by"},
        "pins": {"pinned_by"},
        "probe_answers": {"origin", "probe_key", "stage", "suite"},
        "refreshes": {"outcome", "phase", "timings"},
        "releases": {"base_digest", "recipe_digest", "snapshot_digest"},
    }
    of_facts = {  # a fact's own row is emptied whole, but for who sent and approved it
        "external_id", "body_digest", "statement", "subject", "relation", "object", "qualifiers",
        "provenance", "tags", "probes", "trust",
    }  # fmt: skip
    ours["facts"] = {"source", "recorded_by", "approved_by"} | of_facts
    for table in Base.metadata.tables.values():
        texts = {column.name for column in table.columns if isinstance(column.type, String | JSON)}
        known = ours.get(table.name, set()) | set(HOLDS_TEXT.get(table.name, ()))
        assert texts == known, table.name


def test_what_another_fact_is_held_for_names_an_erased_one_no_more(
    make_world: Callable[..., Any],
) -> None:
    world = make_world()
    erased = push(world, RECORD).id
    other = push(world, {"statement": "Somebody else is.", "external_id": "other"}).id
    with writing(world.engine) as session:
        why = f"it contradicts fact {erased} of team: that one says the mayor of Tolmar"
        facts.hold(session, {other: why})
    carry_out(world, erased)
    with reading(world.engine) as session:
        row = session.get_one(FactRow, other)
        assert "Tolmar" not in str(row.held_reason)
        assert facts.held_of(session, [other]) == [other]


def test_a_tombstone_holds_nothing_of_the_fact(make_world: Callable[..., Any]) -> None:
    world = make_world()
    more = {"tags": ["Tolmar"], "qualifiers": {"seat": "Tolmar Hall"}, "trust": "Vess says so"}
    push(world, {**RECORD, **more})
    carry_out(world)
    with reading(world.engine) as session:
        row = session.get_one(FactRow, 1)
        kept = {c.name: getattr(row, c.name) for c in FactRow.__table__.columns}
    said = {
        name
        for name, value in kept.items()
        if isinstance(value, str | dict | list) and value and name != "external_id"
    }
    assert said == {"source", "statement", "recorded_by"}
    assert str(kept["external_id"]).startswith("erased:")
    assert Path(world.settings.state_dir / "pepper").exists()


def test_a_state_directory_beside_the_settings_is_erased_in_too(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the shipped settings: `state`, seen from where the command is typed."""
    world = make_world()
    two_adapters(world)
    monkeypatch.chdir(world.settings.state_dir.parent)
    settings = world.settings.model_copy(update={"state_dir": Path("state")})
    here = world._replace(settings=settings, engine=make_engine(settings.url))
    assert carry_out(here).is_complete
    assert files_with_traces(world) == []
    here.engine.dispose()


def test_weights_that_no_row_tells_of_go_too(make_world: Callable[..., Any]) -> None:
    """A refresh that was killed leaves an adapter, or a composed model, that nobody recorded."""
    settings, engine = world = make_world()
    two_adapters(world)
    places = Places(settings.state_dir)
    with reading(engine) as session:
        digest = session.get_one(Adapter, 1).digest
    stray = [places.adapters / "0123456789abcdef", places.snapshots / "0123456789abcdef"]
    for folder in stray:
        shutil.copytree(places.adapter(digest), folder)
    assert set(plan_erasure(settings, engine, [1]).files) >= {
        path.relative_to(settings.state_dir).as_posix() for path in stray
    }
    assert carry_out(world).is_complete
    assert not any(folder.exists() for folder in stray)


def test_logs_with_tables_go_and_a_log_in_use_is_overwritten_in_place(
    make_world: Callable[..., Any],
) -> None:
    settings, _ = world = make_world()
    push(world, RECORD)
    logs = Places(settings.state_dir).logs
    logs.mkdir()
    (logs / "refresh-1.log").write_text("│ Orlan │\n│ Vess  │")
    (logs / "operation-1.log").write_text("Orlan said so\n")
    with (logs / "operation-1.log").open("ab") as in_use:
        assert carry_out(world).is_complete
        in_use.write(b"and on\n")
    assert [path.name for path in logs.iterdir()] == ["operation-1.log"]
    assert (logs / "operation-1.log").read_text() == "[erased] said so\nand on\n"


def test_a_head_that_went_back_meanwhile_keeps_its_adapters(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, engine = world = make_world()
    first, _ = two_adapters(world)
    real = erasure._purge

    def after_somebody_went_back(*arguments: Any, **how: Any) -> Any:
        go_back(settings, engine, first.release_id, by="another admin", reason="r")
        return real(*arguments, **how)

    with monkeypatch.context() as patch:
        patch.setattr(erasure, "_purge", after_somebody_went_back)
        with pytest.raises(Conflict, match="adapters 1, which saw the facts, are in it again"):
            carry_out(world)
    assert check(settings, engine, fast=False, now=datetime.now(UTC)).problems == ()
    assert carry_out(world).is_complete
    assert files_with_traces(world) == []


def test_an_erasure_that_is_open_is_not_widened_or_narrowed(
    make_world: Callable[..., Any],
) -> None:
    settings, _ = world = make_world()
    two_adapters(world)
    gate = settings.gate.model_copy(update={"backward_floor": 0.9})
    strict = world._replace(settings=settings.model_copy(update={"gate": gate}))
    assert not carry_out(strict, 1, 2).is_complete
    for some in ((1,), (2, 3)):
        with pytest.raises(Conflict, match="lorewright facts erase 1 2"):
            carry_out(world, *some, force=True)
    assert world.state(3) is not FactState.RETRACTED
    assert carry_out(world, 2, 1).is_complete


def test_what_is_told_of_an_erased_fact_in_another_ones_place_goes(
    make_world: Callable[..., Any],
) -> None:
    _, engine = world = make_world()
    push(world, RECORD)
    (other,) = world.push(OTHERS[0])
    world.refresh()
    with writing(engine) as session:
        answers = session.scalars(select(ProbeAnswer)).all()
        answers[0].probe_key, answers[0].fact_id = "superseded/1/backward/0", other
        answers[0].question = "Who is the mayor of a town?"
        key = answers[1].probe_key
        for answer in answers:
            if answer.probe_key == key:
                answer.probe_key = "triggers/Orlan Vess .../0"
        membership = session.scalars(select(Membership).where(Membership.fact_id == other)).one()
        membership.reason = "It contradicts fact 1 of team: the mayor of nowhere."
    assert carry_out(world).is_complete
    with reading(engine) as session:
        kept = session.get_one(ProbeAnswer, answers[0].id)
        assert (kept.question, kept.text) == ("[erased]", "[erased]")
        assert session.get_one(ProbeAnswer, answers[1].id).probe_key == f"erased/{answers[1].id}"
        shown = views.show_refresh(session, 1)  # before and after are still a pair
        assert f"erased/{answers[1].id}" in {answer.probe_key for answer in shown.probes}
        found = select(Membership.reason).where(Membership.fact_id == other)
        found = found.order_by(Membership.batch_id)
        assert session.scalars(found).first() == "[erased]"


def test_a_pin_whose_reason_alone_names_an_erased_fact_stays(
    make_world: Callable[..., Any],
) -> None:
    _, engine = world = make_world()
    push(world, RECORD)
    with writing(engine) as session:
        why, now = "Orlan Vess wanted it", datetime.now(UTC)
        pins.pin(session, "Who leads the choir?", ["Mira"], reason=why, by="me", now=now)
    assert carry_out(world).is_complete
    with reading(engine) as session:
        pin = views.show_pin(session, 1)
    assert (pin.removed_at, pin.reason) == (None, "[erased] wanted it")


def test_a_model_that_another_process_examines_is_not_deleted_under_it(
    make_world: Callable[..., Any],
) -> None:
    settings, _ = world = make_world()
    push(world, RECORD)
    folder = Places(settings.state_dir).candidates / f"without-0123456789abcdef-{os.getpid()}"
    folder.mkdir(parents=True)
    with pytest.raises(Conflict, match="still uses"):
        carry_out(world)
    assert folder.is_dir()
    folder.rename(folder.with_name(f"without-0123456789abcdef-{2**22 + 1}"))  # nobody's
    assert carry_out(world).is_complete
    assert list(folder.parent.iterdir()) == []


def test_a_reason_that_somebody_wrote_about_a_number_stays(make_world: Callable[..., Any]) -> None:
    """Only our own reasons name facts by their numbers."""
    _, engine = world = make_world()
    push(world, RECORD)
    world.push(OTHERS[0])
    world.refresh()
    with writing(engine) as session:
        session.scalars(select(HeadMove)).all()[-1].reason = "fact 1 was wrong"
    assert carry_out(world, force=True).is_complete
    with reading(engine) as session:
        assert session.get_one(HeadMove, 2).reason == "fact 1 was wrong"
        verdict = views.show_refresh(session, 1).verdict
    assert verdict is not None
    assert verdict["outcome"] == "pass"


def test_while_somebody_reads_the_old_database_it_is_not_called_complete(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a reader may still see stays in the write-ahead log."""
    settings, engine = world = make_world()
    push(world, RECORD)
    monkeypatch.setattr("service.db.REWRITE_TRIES", 1)
    reader = make_engine(settings.url)
    with reading(reader) as session:
        assert session.get_one(FactRow, 1).subject == "Orlan Vess"
        with pytest.raises(Conflict, match="Somebody still reads"):
            carry_out(world)
        with reading(engine) as other:
            assert views.show_erasure(other, 1).completed_at is None
    reader.dispose()
    assert carry_out(world).is_complete
    assert files_with_traces(world) == []


def test_what_is_a_part_of_another_word_or_of_our_own_is_not_called_left_over(
    make_world: Callable[..., Any],
) -> None:
    """In the database's bytes no word ends; what is in a name of somebody else stays his."""
    world = make_world()
    push(
        world,
        {
            "statement": "Ana Li tends the gardens of Ostrel.",
            "subject": "Ana Li",
            "provenance": {"publisher": "team two"},
        },
    )
    world.push("Ana Lima sings in the Bregal choir.")
    with writing(world.engine) as session:
        session.add(
            ApiKey(id="k2", digest="", source="team two", scopes=[], created_at=datetime.now(UTC))
        )
    end = carry_out(world)
    assert end.is_complete, end.found_in
    assert end.receipt is not None
    assert end.receipt["database_searched"] is (world.settings.database_url is None)
    with reading(world.engine) as session:
        assert views.show_fact(session, 2).statement == "Ana Lima sings in the Bregal choir."


@pytest.mark.sqlite
def test_what_was_not_overwritten_is_found_in_the_databases_bytes(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world()
    push(world, RECORD)
    monkeypatch.setattr("service.erasure.rewrite", lambda _: None)
    end = carry_out(world)
    assert not end.is_complete
    assert end.found_in[0].startswith("the database, where they should have been overwritten")
    monkeypatch.undo()
    assert not carry_out(world).is_complete  # what it would have to look for is not known any more


def test_whoever_said_the_same_under_another_key_is_named(make_world: Callable[..., Any]) -> None:
    world = make_world()
    push(world, RECORD)
    push(world, {**RECORD, "external_id": "again"})
    world.push("Lake Ux lies in Ardun.")
    assert plan_erasure(world.settings, world.engine, [1]).said_by_others == (2,)
    assert plan_erasure(world.settings, world.engine, [1, 2]).said_by_others == ()
    end = carry_out(world)
    assert end.is_complete
    assert end.receipt is not None
    assert end.receipt["said_by_others"] == [2]
    with reading(world.engine) as session:
        assert views.show_fact(session, 2).statement == RECORD["statement"]
    assert carry_out(world, 2).is_complete
    assert files_with_traces(world) == []


def test_many_rows_are_overwritten_a_part_at_a_time_while_others_write(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No transaction takes all of them, and what comes in between is found, too."""
    world = make_world()
    push(world, RECORD)
    now = datetime.now(UTC)

    def note(session: Any, nth: int) -> None:
        pins.pin(session, f"Who sings {nth}?", ["Orlan Vess"], reason="r", by="me", now=now)

    with writing(world.engine) as session:
        for nth in range(5):
            note(session, nth)
    sizes: list[int] = []

    def counting(session: Any, changes: Any) -> dict[str, int]:
        sizes.append(len(changes))
        if len(sizes) == 1:
            note(session, 5)
        return purge.apply(session, changes)

    monkeypatch.setattr("service.erasure.ROWS_AT_ONCE", 2)
    monkeypatch.setattr("service.erasure.apply", counting)
    assert plan_erasure(world.settings, world.engine, [1]).rows["pins"] == 5
    end = carry_out(world)
    assert end.is_complete
    assert max(sizes) == 2
    assert end.receipt is not None
    assert end.receipt["rows_overwritten"]["pins"] == 6
    with reading(world.engine) as session:
        assert {pin.removed_at is not None for pin in session.scalars(select(Pin))} == {True}


def test_an_erasure_whose_lease_somebody_took_writes_nothing_more(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world()
    push(world, RECORD)

    def taken(*_: Any) -> int:
        with writing(world.engine) as session:
            session.get_one(Lease, leases.REFRESH).token += 1
        return 0

    with monkeypatch.context() as patched:
        patched.setattr("service.erasure.overwrite_logs", taken)
        with pytest.raises(LeaseLost):
            carry_out(world)
    with reading(world.engine) as session:
        assert session.get_one(FactRow, 1).statement == RECORD["statement"]


def test_answers_of_models_that_knew_it_and_half_a_training_go_whatever_they_hold(
    make_world: Callable[..., Any],
) -> None:
    """Numbers tell a reader nothing, so these go by where they stand; what the base says stays."""
    world = make_world()
    two_adapters(world)
    places = Places(world.settings.state_dir)
    places.checkpoint.mkdir()
    (places.checkpoint / "training.safetensors").write_bytes(b"numbers")
    stray = places.answers / f"{'0' * 16}-{'1' * 16}.json"
    stray.write_text("{}")
    base = world.head().recipe.base_digest[:16]
    assert any(path.name.startswith(base) for path in places.answers.iterdir())
    assert carry_out(world).is_complete
    assert not places.checkpoint.exists()
    kept = [path.name for path in places.answers.iterdir() if path.suffix == ".json"]
    assert stray.name not in kept
    assert any(name.startswith(base) for name in kept)
