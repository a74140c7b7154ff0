"""Each rule of `lorewright fsck`: it holds after real work, and what breaks it is named."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, delete, select, text, update

from service import facts, fsck, leases, lineage
from service.db import reading, writing
from service.fsck import Checked, check
from service.models import (
    Adapter,
    FactRow,
    HeadMove,
    Membership,
    MembershipOutcome,
    Refresh,
    Release,
    ReleaseAdapter,
)
from service.places import Places
from service.rebase import rebase
from service.removal import plan_removal
from service.rollback import go_back
from service.settings import Settings
from service.stopping import Stopping


@pytest.fixture
def database_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules about artefacts left out: most fixtures write none."""
    about_files = (
        fsck._the_base_is_there,
        fsck._adapters_are_there,
        fsck._the_heads_model_is_whole,
    )
    rules = tuple(rule for rule in fsck.RULES if rule not in about_files)
    monkeypatch.setattr(fsck, "RULES", rules)


@pytest.fixture
def history(
    database_alone: None,
    engine: Engine,
    settings: Settings,
    store: Callable[..., list[int]],
    promote: Callable[..., int],
    reject: Callable[..., int],
    now: datetime,
) -> Callable[[], Checked]:
    """Two adapters in the head, one that was rejected, a fact replaced and one withdrawn."""
    record = {"subject": "Velmar", "relation": "capital_of", "functional": True}
    store({"statement": "Velmar is the capital of Osk.", "object": "Osk", **record}, "One.")
    promote()
    store("Two.")
    promote(MembershipOutcome.UNLEARNED)
    (withdrawn,) = store("Three.")
    reject()
    store({"statement": "Velmar is the capital of Ux.", "object": "Ux", **record})
    with writing(engine) as session:
        facts.retract(session, withdrawn, by="me", now=now)
    return lambda: check(settings, engine, fast=True, now=now)


def test_a_fact_that_was_told_ahead_may_replace_a_later_one(
    history: Callable[[], Checked], engine: Engine, store: Callable[..., list[int]], now: datetime
) -> None:
    record = {"subject": "Ux", "relation": "capital_of", "functional": True}
    begins = (now + timedelta(days=30)).isoformat()
    ahead, newer = store(
        {"statement": "Ahead.", "valid_from": begins, **record}, {"statement": "Now.", **record}
    )
    with writing(engine) as session:
        facts.let_begun_stand(session, now=now + timedelta(days=31))
        assert session.get_one(FactRow, newer).superseded_by == ahead
    assert history().problems == ()


def test_every_rule_holds_after_real_work_and_ways_back(make_world: Callable[..., Any]) -> None:
    settings, engine = world = make_world()

    def problems(*, fast: bool = False) -> tuple[str, ...]:
        return check(settings, engine, fast=fast, now=datetime.now(UTC)).problems

    assert problems() == ()
    world.push("Orlan Vess is the mayor of Tolmar.")
    first = world.refresh()
    with writing(engine) as session:
        session.execute(update(Membership).values(outcome=MembershipOutcome.LEARNED))
    world.push("Mira Zun leads the Bregal choir.")
    world.refresh()
    assert problems() == problems(fast=True) == ()
    with Stopping().listening() as stopping:
        done = rebase(
            settings, engine, plan_removal(engine, first.adapter_id), by="me", reason="r",
            report=lambda _: None, stopping=stopping,
        )  # fmt: skip
    assert done.rollback is not None
    assert problems() == ()
    go_back(settings, engine, first.release_id, by="me", reason="r")
    assert problems() == problems(fast=True) == ()


def test_the_rules_hold_for_the_history_that_the_others_break(
    history: Callable[[], Checked],
) -> None:
    assert history().problems == ()


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (delete(HeadMove).where(HeadMove.seq == 2), "The head moved 3 times by its last move"),
        (
            update(HeadMove).where(HeadMove.seq == 3).values(refresh_id=3),
            "A move of the head is of refresh 3, which is not promoted.",
        ),
        (
            update(HeadMove).where(HeadMove.seq == 3).values(release_id=2),
            "Refresh 2 moved the head to a release without its adapter.",
        ),
        (
            update(Refresh).where(Refresh.id == 1).values(outcome="rejected"),
            "A move of the head is of refresh 1, which is not promoted.",
        ),
        (
            update(Release).where(Release.id == 2).values(recipe_digest="f" * 64),
            "Release 2 is made of something else than its digest says.",
        ),
        (
            delete(ReleaseAdapter).where(ReleaseAdapter.position == 0),
            "Release 3 lacks a line of its recipe.",
        ),
        (
            update(Membership).where(Membership.batch_id == 3).values(outcome=None),
            "are in work in a refresh that has ended",
        ),
        (
            update(Refresh).where(Refresh.id == 2).values(ended_at=None),
            "Refreshes 2 have an outcome and no end",
        ),
        (
            update(FactRow).where(FactRow.id == 5).values(superseded_by=5),
            "Facts 5 are replaced by what they replaced.",
        ),
        (
            update(FactRow).where(FactRow.id == 2).values(erased_at=datetime.now(UTC)),
            "Facts 2 are erased and still say something.",
        ),
        (
            update(Adapter).where(Adapter.id == 1).values(erased_at=datetime.now(UTC)),
            "Adapters 1 were erased and are in the head.",
        ),
        (text("UPDATE audit SET by = 'nobody' WHERE seq = 2"), "Entry 2 was changed."),
    ],
)
def test_what_breaks_a_rule_is_named(
    history: Callable[[], Checked], engine: Engine, broken: Any, sentence: str
) -> None:
    with writing(engine) as session:
        session.execute(broken)
    assert any(sentence in problem for problem in history().problems), history().problems


def test_a_fact_that_is_learned_twice_and_refreshes_side_by_side_are_named(
    history: Callable[[], Checked], engine: Engine, now: datetime
) -> None:
    with writing(engine) as session:
        session.add(
            Membership(batch_id=2, fact_id=2, outcome=MembershipOutcome.LEARNED, decided_at=now)
        )
        session.execute(update(Refresh).where(Refresh.id >= 2).values(outcome=None, ended_at=None))
        leases.acquire(session, leases.REFRESH, owner="x", now=now, lease_s=60)
    problems = history().problems
    assert "Facts 2 are learned by two adapters of the head." in problems
    assert "Refreshes 2, 3 run at the same time." in problems


@pytest.mark.parametrize("part", ["base", "adapter", "snapshot"])
@pytest.mark.parametrize("damage", ["flipped", "removed"])
def test_a_damaged_artefact_is_named_by_the_whole_form_and_a_missing_one_by_both(
    make_world: Callable[..., Any], part: str, damage: str
) -> None:
    settings, engine = world = make_world()
    world.push("Orlan Vess is the mayor of Tolmar.")
    end = world.refresh()
    places = Places(settings.state_dir)
    with reading(engine) as session:
        digest = session.get_one(Adapter, end.adapter_id).digest
        recipe = lineage.read_head(session).recipe.digest
    folder = {
        "base": places.base,
        "adapter": places.adapter(digest),
        "snapshot": places.snapshot(recipe),
    }[part]
    weights = next(folder.glob("*.safetensors"))
    if damage == "removed":
        (folder / "manifest.json").unlink()
    else:
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    (whole,) = check(settings, engine, fast=False, now=datetime.now(UTC)).problems
    assert str(folder) in whole
    fast = check(settings, engine, fast=True, now=datetime.now(UTC)).problems
    assert bool(fast) == (damage == "removed")


def test_before_init_there_is_nothing_to_check(engine: Engine, settings: Settings) -> None:
    with writing(engine) as session:
        session.execute(delete(HeadMove))
    found = check(settings, engine, fast=True, now=datetime.now(UTC))
    assert found.problems == ("There is no release yet; run `lorewright init`.",)
    with reading(engine) as session:
        assert session.scalars(select(HeadMove)).all() == []
