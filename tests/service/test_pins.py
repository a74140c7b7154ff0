"""Pinned questions: what can be pinned, and that losing one fails a candidate."""

from collections.abc import Callable
from datetime import datetime

import pytest
from sqlalchemy import Engine

from adapters.types import ProbeOrigin, Suite
from service import pins
from service.db import reading, writing
from service.errors import Conflict, NotFound
from service.models import ProbeAnswer

Pinning = Callable[..., int]


@pytest.fixture
def pin(engine: Engine, now: datetime) -> Pinning:
    def pin_one(
        question: str = "What is the capital of Norway?", answers: tuple[str, ...] = ("Oslo",)
    ) -> int:
        with writing(engine) as session:
            return pins.pin(session, question, answers, reason="it broke", by="admin", now=now).id

    return pin_one


def test_a_pinned_question_is_asked_until_it_is_removed(
    engine: Engine, pin: Pinning, now: datetime
) -> None:
    kept, removed = pin(), pin("Who wrote Hamlet?", ("Shakespeare",))
    with writing(engine) as session:
        pins.unpin(session, removed, by="test", now=now)
        (probe,) = pins.pinned_probes(session)
        assert (probe.suite, probe.question, probe.answers, probe.cluster) == (
            Suite.PINNED,
            "What is the capital of Norway?",
            ("Oslo",),
            str(kept),
        )
        with pytest.raises(Conflict, match="already removed"):
            pins.unpin(session, removed, by="test", now=now)
        with pytest.raises(NotFound, match="no pin 4711"):
            pins.unpin(session, 4711, by="test", now=now)
    assert pin("Who wrote Hamlet?", ("Shakespeare",)) > removed  # it may be pinned again


@pytest.mark.parametrize(
    ("question", "answers", "complaint"),
    [
        ("What is Oslo?", ("Oslo",), "contains its own answer"),
        ("What is it?", (), "needs an accepted answer"),
        ("What is it?", ("The",), "needs an accepted answer"),
        ("What is it?", (" ",), "must not be empty"),
        (" ", ("Oslo",), "must not be empty"),
        ("What is the capital of Norway?", ("Oslo",), "pinned already, as pin 1"),
    ],
)
def test_what_could_not_be_graded_cannot_be_pinned(
    pin: Pinning, question: str, answers: tuple[str, ...], complaint: str
) -> None:
    pin()
    with pytest.raises(Conflict, match=complaint):
        pin(question, answers)


@pytest.mark.parametrize("suite", [Suite.REGRESSION, Suite.LEAKAGE])
def test_a_question_of_a_refresh_is_pinned_by_its_key(
    engine: Engine,
    store: Callable[..., list[int]],
    reject: Callable[[], int],
    now: datetime,
    suite: Suite,
) -> None:
    store("One.")
    reject()
    with writing(engine) as session:
        session.add(
            ProbeAnswer(
                refresh_id=1, stage="before", suite=suite, probe_key="general/x", question="Who?",
                answers=["Ann"], origin=ProbeOrigin.SUITE, text="Ann", exact=True, contained=True,
                recall=1.0,
            )
        )  # fmt: skip

    def pin_it(key: str) -> None:
        with writing(engine) as session:
            pins.pin_probe(session, 1, key, reason="it broke", by="admin", now=now)

    with pytest.raises(NotFound, match="asked no probe general/y"):
        pin_it("general/y")
    if suite is Suite.LEAKAGE:
        with pytest.raises(Conflict, match="must not come"):
            pin_it("general/x")
        return
    pin_it("general/x")
    with reading(engine) as session:
        (row,) = pins.pinned(session)
        assert (row.question, row.answers, row.reason) == ("Who?", ["Ann"], "it broke")
