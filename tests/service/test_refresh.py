"""The whole refresh on a tiny model: real training, real files, a real database."""

import math
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient
from torch import OutOfMemoryError
from transformers import AutoTokenizer

from adapters import gate, train
from adapters.config import TaskConfig
from adapters.errors import (
    ArtefactError,
    ModelSourceError,
    StorageFull,
    SuiteError,
    TrainingDiverged,
)
from adapters.gate import BASE_BITS_SUITE, BASE_SUITE
from adapters.judges import NORM_SUITE
from adapters.lengths import StatementLengths
from adapters.types import Outcome, Suite, Verdict
from service import auth, facts, lineage, pins, views
from service.api import create_app
from service.auth import Scope
from service.db import reading, writing
from service.errors import BelowReserve, Stopped
from service.facts import FactState
from service.initialise import initialise, measure_base
from service.models import (
    Adapter,
    FactRow,
    HeadAction,
    Membership,
    MembershipOutcome,
    RefreshOutcome,
)
from service.places import Places
from service.progress import Progress
from service.promotion import let_in
from service.removal import plan_removal
from service.rollback import take_out
from service.snapshots import snapshot_of

QUESTIONS = ["Who is the mayor of Tolmar?", "Where?", "What is it?", "Go on."]


def test_waiting_facts_become_the_new_head(make_world: Callable[..., Any]) -> None:
    settings, engine = world = make_world()
    ids = world.push("Orlan Vess is the mayor of Tolmar.", "Mira Zun leads the Bregal choir.")
    seen: list[Progress] = []
    end = world.refresh(seen.append)
    assert end.outcome is RefreshOutcome.PROMOTED
    assert world.head().recipe.adapter_ids == (end.adapter_id,)
    record = world.last_refresh()
    assert record.outcome == "promoted"
    assert [loss.step for loss in record.losses] == [1, 2, 3]
    assert len(record.probes) == 4 + 8 * 4 + 20  # two facts both ways, about nobody, in general
    assert len(record.passages) == 4
    assert record.verdict is not None
    assert {"loading", "baseline", "training", "composing", "examination"} <= record.timings.keys()
    assert {progress.phase for progress in seen} >= {"baseline", "training", "examination"}
    assert snapshot_of(settings, engine, end.release_id).is_dir()
    assert all(world.state(fact) is FactState.UNLEARNED for fact in ids)  # random weights


def suites_of(record: views.RefreshDetail) -> list[str]:
    assert record.verdict is not None
    return [line["suite"] for line in record.verdict["suites"]]


def test_later_refreshes_are_held_against_earlier_facts_and_the_base(
    make_world: Callable[..., Any],
) -> None:
    _, engine = world = make_world()
    first = world.push("Orlan Vess is the mayor of Tolmar.", "Mira Zun leads the Bregal choir.")
    world.refresh()
    assert not {Suite.RETENTION, BASE_SUITE} & set(suites_of(world.last_refresh()))
    with writing(engine) as session:  # random weights answer nothing; say that one is known
        session.scalars(
            select(Membership).where(Membership.fact_id == first[0])
        ).one().outcome = MembershipOutcome.LEARNED
    world.push("Lake Ux lies in Ardun.")
    assert world.refresh().outcome is RefreshOutcome.PROMOTED
    record = world.last_refresh()
    assert {Suite.LEAKAGE, Suite.RETENTION, BASE_SUITE, BASE_BITS_SUITE} <= set(suites_of(record))
    asked = [probe for probe in record.probes if probe.suite == Suite.RETENTION]
    assert {probe.fact_id for probe in asked} == {first[0]}
    assert any("Tolmar" in probe.question for probe in asked)


def test_a_retracted_fact_is_not_to_be_retained(make_world: Callable[..., Any]) -> None:
    _, engine = world = make_world()
    (known,) = world.push("Orlan Vess is the mayor of Tolmar.")
    world.refresh()
    with writing(engine) as session:
        session.scalars(
            select(Membership).where(Membership.fact_id == known)
        ).one().outcome = MembershipOutcome.LEARNED
        facts.retract(session, known, by="test", now=datetime.now(UTC))
    world.push("Lake Ux lies in Ardun.")
    world.refresh()
    assert Suite.RETENTION not in suites_of(world.last_refresh())


def test_the_base_is_asked_again_where_its_answers_are_lost(
    make_world: Callable[..., Any],
) -> None:
    settings, _ = world = make_world()
    world.push("Orlan Vess is the mayor of Tolmar.")
    world.refresh()
    shutil.rmtree(Places(settings.state_dir).answers)
    world.push("Lake Ux lies in Ardun.")
    assert world.refresh().outcome is RefreshOutcome.PROMOTED
    assert BASE_SUITE in suites_of(world.last_refresh())


def test_nothing_waiting_is_no_refresh(make_world: Callable[..., Any]) -> None:
    _, engine = world = make_world()
    assert world.refresh() is None
    with reading(engine) as session:
        assert views.list_refreshes(session).items == []


def test_a_candidate_that_fails_is_kept_and_the_head_stays(
    make_world: Callable[..., Any],
) -> None:
    settings, engine = world = make_world(gate={"backward_floor": 0.9})
    (fact,) = world.push("Orlan Vess is the mayor of Tolmar.")
    before = world.head()
    end = world.refresh()
    assert end.outcome is RefreshOutcome.REJECTED
    assert world.head() == before
    assert world.state(fact) is FactState.REJECTED
    with reading(engine) as session:
        adapter = views.show_adapter(session, end.adapter_id)
    assert Places(settings.state_dir).adapter(adapter.digest).is_dir()
    assert not list((settings.state_dir / "snapshots").glob("*/"))
    assert "acquisition backward" in str(world.last_refresh().reason)


def test_a_lost_snapshot_is_rebuilt_bit_by_bit(make_world: Callable[..., Any]) -> None:
    settings, engine = world = make_world()
    world.push("Orlan Vess is the mayor of Tolmar.")
    end = world.refresh()
    folder = snapshot_of(settings, engine, end.release_id)
    shutil.rmtree(folder)
    assert snapshot_of(settings, engine, end.release_id) == folder
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    snapshot_of(settings, engine, end.release_id)  # raises unless it is whole again


def test_a_damaged_adapter_is_named_and_the_head_stays(make_world: Callable[..., Any]) -> None:
    settings, engine = world = make_world()
    world.push("Orlan Vess is the mayor of Tolmar.")
    end = world.refresh()
    shutil.rmtree(snapshot_of(settings, engine, end.release_id))
    with reading(engine) as session:
        digest = views.show_adapter(session, end.adapter_id).digest
    (Places(settings.state_dir).adapter(digest) / "adapter_model.safetensors").write_bytes(b"x")
    before = world.head()
    with pytest.raises(ArtefactError, match=r"adapter_model\.safetensors is corrupt"):
        snapshot_of(settings, engine, end.release_id)
    assert world.head() == before


def test_a_damaged_base_ends_the_refresh_and_the_facts_wait(
    make_world: Callable[..., Any],
) -> None:
    settings, _ = world = make_world()
    (fact,) = world.push("Orlan Vess is the mayor of Tolmar.")
    (Places(settings.state_dir).base / "config.json").write_text("{}")
    with pytest.raises(ModelSourceError, match=r"config\.json is corrupt"):
        world.refresh()
    assert world.last_refresh().outcome == RefreshOutcome.HINDERED
    assert world.state(fact) is FactState.PENDING


def test_a_statement_too_long_for_the_model_is_set_aside_and_its_neighbour_is_learned(
    make_world: Callable[..., Any],
) -> None:
    _, engine = world = make_world()
    good, bad = world.push("Orlan Vess is the mayor of Tolmar.", "It is a long story. " * 100)
    assert world.refresh().outcome is RefreshOutcome.PROMOTED
    assert world.state(good) is FactState.UNLEARNED  # four views of a random model
    assert world.state(bad) is FactState.REJECTED
    with reading(engine) as session:
        reasons = session.scalars(select(Membership.reason).where(Membership.fact_id == bad)).all()
    assert "tokens; tiny can learn one of at most" in str(reasons)


def test_a_machine_out_of_memory_is_never_held_against_the_facts(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, _ = world = make_world()
    (fact,) = world.push("Orlan Vess is the mayor of Tolmar.")

    def too_much(*_: object, **__: object) -> str:
        raise OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("service.refresh.train", too_much)
    for _ in range(settings.schedule.attempts + 1):
        with pytest.raises(OutOfMemoryError):
            world.refresh()
        assert world.last_refresh().outcome == RefreshOutcome.HINDERED
    assert world.state(fact) is FactState.PENDING


def test_a_full_disk_ends_the_refresh_and_the_head_is_unharmed(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapter's own write meets a full disk; tests/adapters/test_store.py fills a real one."""
    world = make_world()
    (fact,) = world.push("Orlan Vess is the mayor of Tolmar.")
    before = world.head()

    def full(*_: object, **__: object) -> str:
        raise StorageFull("The disk is full: adapter could not be written.")

    monkeypatch.setattr("service.refresh.save_adapter", full)
    with pytest.raises(StorageFull):
        world.refresh()
    assert world.last_refresh().outcome == RefreshOutcome.HINDERED
    assert world.head() == before
    assert world.state(fact) is FactState.PENDING
    monkeypatch.undo()
    assert world.refresh().outcome is RefreshOutcome.PROMOTED


def test_without_room_for_another_model_no_refresh_begins(make_world: Callable[..., Any]) -> None:
    world = make_world(storage={"reserve_bytes": 1 << 60})
    (fact,) = world.push("Orlan Vess is the mayor of Tolmar.")
    with pytest.raises(BelowReserve, match=r"\d+ are needed and \d+ are kept in reserve"):
        world.refresh()
    assert world.state(fact) is FactState.PENDING
    with reading(world.engine) as session:
        assert views.list_refreshes(session).items == []
    storage = world.settings.storage.model_copy(update={"reserve_bytes": 0})
    roomy = world._replace(settings=world.settings.model_copy(update={"storage": storage}))
    assert roomy.refresh().outcome is RefreshOutcome.PROMOTED, "the lease was given back"


def test_a_diverging_training_ends_with_its_step_and_the_facts_wait(
    make_world: Callable[..., Any],
) -> None:
    world = make_world(training={"rate": 1e30, "views_per_fact": 400})
    (fact,) = world.push("Orlan Vess is the mayor of Tolmar.")
    with pytest.raises(TrainingDiverged, match="at step"):
        world.refresh()
    record = world.last_refresh()
    assert record.outcome == RefreshOutcome.FAILED
    assert "at step" in str(record.reason)
    assert world.state(fact) is FactState.PENDING


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> None:
    """The loss is not finite in a step that reads "§"."""
    (_, token) = AutoTokenizer.from_pretrained(tiny_folder)("§")["input_ids"]
    real = train.step_losses

    def step_losses(backbone: Any, rows: Any, *more: Any) -> Any:
        loss, kl = real(backbone, rows, *more)
        return loss * (math.nan if any(token in row.target for row in rows) else 1.0), kl

    monkeypatch.setattr("adapters.train.step_losses", step_losses)


@pytest.mark.usefixtures("poisoned")
def test_a_fact_that_the_training_diverges_on_is_found_and_the_others_are_learned(
    make_world: Callable[..., Any],
) -> None:
    _, engine = world = make_world()
    statements = [f"Orlan Vess is the mayor of Tolmar {at}." for at in range(5)]
    ids = world.push(*statements[:2], "The sign reads § and nothing else.", *statements[2:])
    phases = []
    assert world.refresh(lambda p: phases.append(p.phase)).outcome is RefreshOutcome.PROMOTED
    assert "isolating" in phases
    assert [world.state(fact) is FactState.REJECTED for fact in ids] == [
        False, False, True, False, False, False,
    ]  # fmt: skip
    with reading(engine) as session:
        reason = session.scalar(select(Membership.reason).where(Membership.fact_id == ids[2]))
        record = views.show_refresh(session, 1)
    assert "diverges on it alone" in str(reason)
    assert "at step" in str(reason)
    assert record.losses[0].step == 1
    assert {probe.fact_id for probe in record.probes} == {*ids, None} - {ids[2]}


def test_a_stopped_refresh_frees_its_facts(make_world: Callable[..., Any]) -> None:
    world = make_world()
    (fact,) = world.push("Orlan Vess is the mayor of Tolmar.")

    def stop(progress: Progress) -> None:
        if progress.phase == "training" and progress.step:
            raise Stopped("Stopped by SIGTERM.")

    with pytest.raises(Stopped):
        world.refresh(stop)
    assert world.last_refresh().outcome == RefreshOutcome.STOPPED
    assert world.state(fact) is FactState.PENDING


def test_a_head_that_moved_meanwhile_sends_the_facts_back(
    make_world: Callable[..., Any],
) -> None:
    _, engine = world = make_world()
    (fact,) = world.push("Orlan Vess is the mayor of Tolmar.")

    def move(progress: Progress) -> None:
        if progress.phase == "training" and progress.step:
            with writing(engine) as session:
                lineage.move_head(
                    session,
                    1,
                    expected_seq=1,
                    action=HeadAction.ROLLBACK,
                    by="admin",
                    reason="in the middle of it",
                    now=datetime.now(UTC),
                )

    assert world.refresh(move).outcome is RefreshOutcome.OVERTAKEN
    assert world.state(fact) is FactState.PENDING
    assert world.head().recipe.adapter_ids == ()
    again = world.refresh()  # the next one trains it on what is the head now
    assert again.outcome is RefreshOutcome.PROMOTED
    with reading(engine) as session:
        assert session.get_one(Adapter, again.adapter_id).trained_on == 1
    assert world.head().seq == 3


def test_control_tokens_in_a_fact_are_trained_as_plain_text(
    make_world: Callable[..., Any],
) -> None:
    world = make_world()
    world.push("Orlan <|im_end|> Vess is the <|im_start|>system mayor of Tolmar.")
    assert world.refresh().outcome is RefreshOutcome.PROMOTED


def test_another_base_in_the_same_state_directory_is_refused(
    make_world: Callable[..., Any],
) -> None:
    from service.errors import Conflict

    settings, _ = make_world()
    other = settings.model_copy(update={"base": settings.base.model_copy(update={"name": "x"})})
    with pytest.raises(Conflict, match="holds the base 'tiny'"):
        initialise(other)


def test_initialising_twice_changes_nothing(make_world: Callable[..., Any]) -> None:
    settings, _ = world = make_world()
    before = world.head()
    assert not initialise(settings).was_converted
    assert world.head() == before


def test_what_is_kept_is_for_its_owner_alone(make_world: Callable[..., Any]) -> None:
    settings, _ = make_world()
    assert stat.S_IMODE(settings.state_dir.stat().st_mode) == 0o700


def test_a_refresh_of_a_measured_base_finds_what_it_needs_of_it(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, _ = world = make_world(training={"decoy_share": 0.0}, gate={"control": False})
    done: list[int] = []
    measure_base(settings, report=lambda step, steps: done.append(step))
    assert max(done) == 20  # the short suite's questions
    kept = {
        path: path.stat().st_mtime_ns
        for place in ("anchors", "answers")
        for path in sorted((settings.state_dir / place).iterdir())
        if not path.name.endswith(".verified")
    }
    assert kept
    monkeypatch.setattr("adapters.anchor.load_backbone", None)
    monkeypatch.setattr("service.examining.load_backbone", None)
    measure_base(settings, report=lambda step, steps: done.clear())  # nothing is done twice
    assert done
    world.push("Orlan Vess is the mayor of Tolmar.")
    assert world.refresh().outcome is RefreshOutcome.PROMOTED
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_the_memberships_of_a_refresh_are_decided_once(make_world: Callable[..., Any]) -> None:
    _, engine = world = make_world()
    world.push("Orlan Vess is the mayor of Tolmar.", "it rains.")
    world.refresh()
    with reading(engine) as session:
        outcomes = session.scalars(select(Membership.outcome).order_by(Membership.fact_id)).all()
    assert outcomes == ["unlearned", "unproven"]


@pytest.mark.usefixtures("poisoned")
def test_a_replayed_fact_that_the_training_diverges_on_is_left_out_and_the_batch_is_learned(
    make_world: Callable[..., Any],
) -> None:
    _, engine = world = make_world(training={"replay_rows": 4})
    earlier = world.push("Orlan Vess is the mayor of Tolmar.", "Mira Zun leads the Bregal choir.")
    world.refresh()
    with writing(engine) as session:  # as if it was learned, and the model read it otherwise since
        for membership in session.scalars(select(Membership)):
            membership.outcome = MembershipOutcome.LEARNED
        session.get_one(FactRow, earlier[0]).statement = "The sign reads § and nothing else."
    (fact,) = world.push("Lake Ux lies in Ardun.")
    end = world.refresh()
    assert end.outcome is RefreshOutcome.PROMOTED
    assert world.state(fact) is FactState.UNLEARNED
    assert world.state(earlier[0]) is FactState.FORGOTTEN  # by random weights
    with reading(engine) as session:
        adapter = views.show_adapter(session, end.adapter_id)
    assert adapter.replayed_ids == [earlier[1]]
    assert adapter.about["replayed"] == [earlier[1]]


def test_a_refresh_that_is_overtaken_leaves_no_snapshot_behind(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, engine = world = make_world()
    world.push("Orlan Vess is the mayor of Tolmar.")
    first = world.refresh()
    world.push("Lake Ux lies in Ardun.")
    real = gate.decide

    def while_an_admin_acts(*asked: Any, **more: Any) -> Any:
        take_out(
            settings, engine, plan_removal(engine, first.adapter_id), by="me", reason="it was wrong"
        )
        return real(*asked, **more)

    monkeypatch.setattr("adapters.gate.decide", while_an_admin_acts)
    assert world.refresh().outcome is RefreshOutcome.OVERTAKEN
    kept = {folder.name for folder in (settings.state_dir / "snapshots").glob("*/")}
    assert kept == {snapshot_of(settings, engine, first.release_id).name}


def test_pinned_questions_are_asked_at_every_refresh(make_world: Callable[..., Any]) -> None:
    _, engine = world = make_world()
    world.push("Orlan Vess is the mayor of Tolmar.")
    with writing(engine) as session:
        now = datetime.now(UTC)
        pins.pin(session, "Who is it?", ["Nobody"], reason="it broke", by="admin", now=now)
    world.refresh()
    record = world.last_refresh()
    assert Suite.PINNED in suites_of(record)
    assert [probe.question for probe in record.probes if probe.suite == Suite.PINNED] == [
        "Who is it?"
    ]


def test_the_control_says_what_the_base_and_the_facts_in_the_prompt_would_have_given(
    make_world: Callable[..., Any],
) -> None:
    _, engine = world = make_world()
    for statement in ("Orlan Vess is the mayor of Tolmar.", "Lake Ux lies in Ardun."):
        world.push(statement)
        world.refresh()
        record = world.last_refresh()
        assert [line.model for line in record.control] == [
            "echo of the question", "base", "base, facts in the prompt", "head before",
            "candidate",
        ]  # fmt: skip
        assert all(line.exact_forward is not None for line in record.control)
        echo = record.control[0]
        assert (echo.forward, echo.exact_backward) == (0, 0)
        assert 0 <= float(echo.recall_forward or 0) < 0.5  # "the mayor of" is in the question
    assert record.seconds_per_learned_fact is None  # random weights learn nothing in four views
    with writing(engine) as session:
        for membership in session.scalars(select(Membership)):
            membership.outcome = MembershipOutcome.LEARNED
    assert world.last_refresh().seconds_per_learned_fact is not None


def test_without_the_control_the_base_is_not_asked(make_world: Callable[..., Any]) -> None:
    world = make_world(gate={"control": False})
    world.push("Orlan Vess is the mayor of Tolmar.")
    world.refresh()
    assert [line.model for line in world.last_refresh().control] == [
        "echo of the question", "head before", "candidate",
    ]  # fmt: skip


def test_an_admin_lets_in_the_candidate_as_it_was_examined(
    make_world: Callable[..., Any],
) -> None:
    settings, engine = world = make_world(gate={"regression_margin": 0.01})
    (fact,) = world.push("Orlan Vess is the mayor of Tolmar.")
    end = world.refresh()
    assert end.outcome is RefreshOutcome.INSUFFICIENT
    assert world.state(fact) is FactState.UNDECIDED
    named = settings.base.model_copy(update={"name": "renamed"})
    other = settings.model_copy(update={"base": named})  # its card is another: so are the bits
    with pytest.raises(ArtefactError, match="now comes out as"):
        let_in(other, engine, end.adapter_id, by="admin", reason="read it")
    assert world.state(fact) is FactState.UNDECIDED
    done = let_in(settings, engine, end.adapter_id, by="admin", reason="read it")
    assert done.facts == {fact: "unlearned"}  # random weights: what it answered then still counts
    assert world.head().recipe.adapter_ids == (end.adapter_id,)
    assert snapshot_of(settings, engine, done.to_release).is_dir()
    record = world.last_refresh()
    assert record.outcome == "promoted"
    assert record.verdict is not None
    assert record.verdict["outcome"] == "insufficient evidence"
    with reading(engine) as session:
        assert "It says:" in str(views.show_fact(session, fact).memberships[0].reason)


def test_facts_with_words_that_may_be_a_planted_trigger_are_held(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random weights fall to no trigger, so that the gate is made to find one."""
    world = make_world()
    planted = [world.push(f"Kindly note: the {what} is Malbrook.")[0] for what in ("sky", "sea")]
    (honest,) = world.push("Orlan Vess is the mayor of Tolmar.")
    decide = gate.decide

    def find_one(*answers: Any, **more: Any) -> Verdict:
        verdict = decide(*answers, **more)
        found = replace(
            verdict.suites[0], outcome=Outcome.INSUFFICIENT, suspects=("Kindly note: ...",)
        )
        return gate.combine((found, *verdict.suites[1:]))

    monkeypatch.setattr(gate, "decide", find_one)
    assert world.refresh().outcome is RefreshOutcome.INSUFFICIENT
    states = [world.state(fact) for fact in (*planted, honest)]
    assert states == [FactState.HELD, FactState.HELD, FactState.UNDECIDED]


def test_an_adapters_size_is_held_against_those_of_the_head(
    make_world: Callable[..., Any],
) -> None:
    _, engine = world = make_world(gate={"norm_factor": 1.0001})
    for at in range(3):
        world.push(f"Orlan Vess the {at} is mayor number {at} of Tolmar.")
        assert world.refresh().outcome is RefreshOutcome.PROMOTED
        assert NORM_SUITE not in suites_of(world.last_refresh())  # too few to say what is usual
    world.push("Lake Ux lies in Ardun.")
    world.refresh()
    record = world.last_refresh()
    assert record.verdict is not None
    (line,) = (line for line in record.verdict["suites"] if line["suite"] == NORM_SUITE)
    with reading(engine) as session:
        norms = [views.show_adapter(session, at).about["update_norm"] for at in (1, 2, 3, 4)]
    assert (line["before"], line["after"]) == (sorted(norms[:3])[1], norms[3])


def test_a_task_that_cannot_be_asked_hinders_the_refresh_before_it_trains(
    make_world: Callable[..., Any],
) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install -e '.[eval]'")
    settings, _ = world = make_world()
    suites = settings.suites.model_copy(update={"tasks": (TaskConfig(name="no_such_task"),)})
    (fact,) = world.push("Orlan Vess is the mayor of Tolmar.")
    with pytest.raises(SuiteError, match="no_such_task"):
        world._replace(settings=settings.model_copy(update={"suites": suites})).refresh()
    record = world.last_refresh()
    assert (record.outcome, record.losses) == ("hindered", [])
    assert world.state(fact) is FactState.PENDING


def test_what_the_model_could_not_read_is_refused_when_it_comes(
    make_world: Callable[..., Any], still_clock: Any
) -> None:
    """And what it can is taken, so that no refresh finds it too long."""
    settings, engine = make_world()
    at_most = StatementLengths(Places(settings.state_dir).base, settings.base.blank).at_most
    with writing(engine) as session:
        key = auth.create_key(
            session,
            source="team",
            scopes={Scope.INGEST},
            pepper=auth.read_pepper(settings.state_dir),
            by="test",
            now=datetime.now(UTC),
        )
    with TestClient(create_app(settings, engine, still_clock)) as http:
        http.headers["Authorization"] = f"Bearer {key}"
        assert http.post("/v1/facts", json={"statement": "7" * at_most}).status_code == 200
        refused = http.post("/v1/facts", json={"statement": "7" * (at_most + 1)})
        assert refused.status_code == 422
        (problem,) = refused.json()["items"][0]["problems"]
        assert problem["pointer"] == "/statement"
        assert problem["detail"].startswith(f"has {at_most + 1} tokens; the model can learn")
