"""The head: one writer, one history, and no way in for a process that lost its lease."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, select

from adapters.types import Outcome, Verdict
from service import batches, leases, lineage
from service.db import reading, writing
from service.errors import Conflict, HeadMoved, LeaseHeld, LeaseLost, NotFound
from service.models import HeadAction, HeadMove, Membership, Refresh, Release

NOW = datetime(2026, 5, 3, 12, 0, tzinfo=UTC)
Insert = Callable[..., int]
Promote = Callable[..., int]


def adapters_in_head(engine: Engine) -> tuple[int, ...]:
    with reading(engine) as session:
        return lineage.read_head(session).recipe.adapter_ids


def test_a_second_owner_is_turned_away_while_the_lease_lasts(engine: Engine) -> None:
    with writing(engine) as session:
        leases.acquire(session, "refresh", owner="one", now=NOW, lease_s=60)
    with pytest.raises(LeaseHeld, match="one holds the lease"), writing(engine) as session:
        leases.acquire(session, "refresh", owner="two", now=NOW, lease_s=60)


def test_an_expired_lease_is_taken_over_with_a_higher_token(engine: Engine) -> None:
    with writing(engine) as session:
        first = leases.acquire(session, "refresh", owner="one", now=NOW, lease_s=60)
    later = NOW + timedelta(seconds=61)
    with writing(engine) as session:
        second = leases.acquire(session, "refresh", owner="two", now=later, lease_s=60)
    assert second.token > first.token
    with pytest.raises(LeaseLost), writing(engine) as session:
        leases.renew(session, first, now=later, lease_s=60)


def test_a_zombie_publishes_nothing(engine: Engine, insert: Insert) -> None:
    """It claimed, was stopped past its lease, and wakes up after a successor began."""
    insert()
    with writing(engine) as session:
        zombie = leases.acquire(session, "refresh", owner="zombie", now=NOW, lease_s=1)
        head = lineage.read_head(session)
        claimed = batches.claim_batch(
            session, hold=zombie, trained_on=1, at_least=1, at_most=9, attempts=3, now=NOW
        )
        assert claimed is not None
        adapter = lineage.record_adapter(
            session,
            refresh_id=claimed.refresh_id,
            batch_id=claimed.batch_id,
            trained_on=1,
            digest="a" * 64,
            base_digest="b" * 64,
            about={},
            now=NOW,
        )
    later = NOW + timedelta(seconds=2)
    with writing(engine) as session:
        leases.acquire(session, "refresh", owner="successor", now=later, lease_s=60)
    with pytest.raises(LeaseLost), writing(engine) as session:
        lineage.promote(
            session,
            lineage.Candidate(
                refresh_id=claimed.refresh_id,
                adapter_id=adapter,
                head=head,
                snapshot_digest="s" * 64,
                outcomes={},
                tries=2,
            ),
            hold=zombie,
            verdict=Verdict(outcome=Outcome.PASS, suites=(), reasons=()),
            now=later,
        )
    assert adapters_in_head(engine) == ()
    with reading(engine) as session:
        assert session.scalars(select(Release.id)).all() == [1]
        assert session.scalars(select(Membership.outcome)).all() == [None]
        assert session.get_one(Refresh, claimed.refresh_id).outcome is None


def test_of_two_that_saw_the_same_head_one_moves_it(engine: Engine) -> None:
    def move() -> None:
        with writing(engine) as session:
            lineage.move_head(
                session, 1, expected_seq=1, action=HeadAction.ROLLBACK, by="t", reason="r", now=NOW
            )

    move()
    with pytest.raises(HeadMoved):
        move()
    with reading(engine) as session:
        assert session.scalars(select(HeadMove.seq).order_by(HeadMove.seq)).all() == [1, 2]


def test_promotions_append_to_the_recipe_in_order(
    engine: Engine, insert: Insert, promote: Promote
) -> None:
    insert("A is B.")
    first = promote()
    insert("C is D.")
    second = promote()
    assert adapters_in_head(engine) == (first, second)


def test_the_same_recipe_is_the_same_release(
    engine: Engine, insert: Insert, promote: Promote
) -> None:
    insert()
    adapter = promote()
    with writing(engine) as session:
        recipe = lineage.recipe_without(session, adapter)
        release = lineage.release_with(session, recipe, snapshot_digest="b" * 64, now=NOW)
        assert release.id == 1


def test_a_recipe_that_is_rebuilt_otherwise_is_refused(engine: Engine) -> None:
    with writing(engine) as session:
        recipe = lineage.recipe_of(session, 1)
        with pytest.raises(Conflict, match="composed as"):
            lineage.release_with(session, recipe, snapshot_digest="x" * 64, now=NOW)


def test_taking_out_what_is_not_in_says_why(
    engine: Engine, insert: Insert, promote: Promote, reject: Promote
) -> None:
    insert("A is B.")
    rejected = reject()
    insert("C is D.")
    out_again = promote()
    with writing(engine) as session:
        lineage.move_head(
            session, 1, expected_seq=2, action=HeadAction.ROLLBACK, by="t", reason="r", now=NOW
        )
    with reading(engine) as session:
        with pytest.raises(Conflict, match="the gate never let it in"):
            lineage.recipe_without(session, rejected)
        with pytest.raises(Conflict, match="taken out before"):
            lineage.recipe_without(session, out_again)
        with pytest.raises(NotFound, match="no adapter 99"):
            lineage.recipe_without(session, 99)
        with pytest.raises(NotFound, match="no release 99"):
            lineage.recipe_of(session, 99)
