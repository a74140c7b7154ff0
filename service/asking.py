"""Ask a release: beside the base, or beside what it said when the gate approved it."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, select

from adapters.backbones import load_backbone
from adapters.generate import answer_all
from adapters.types import Suite
from service import lineage
from service.db import reading
from service.errors import Conflict
from service.models import ProbeAnswer
from service.settings import Settings
from service.snapshots import opened
from service.traces import ERASED


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One question, and what the release and the base say."""

    question: str
    head: str
    base: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Replies:
    release_id: int
    is_head: bool
    answers: tuple[Reply, ...]


def ask_release(
    settings: Settings, engine: Engine, questions: Sequence[str], *, release_id: int | None
) -> Replies:
    """Free greedy answers of a release (the head unless one is named) and of the base.

    Raises NotFound for an unknown release, ArtefactError or ModelSourceError for damaged weights.
    """
    with reading(engine) as session:
        head = lineage.read_head(session).release_id
        asked = head if release_id is None else release_id
        is_base = not lineage.recipe_of(session, asked).adapter_ids
    said = _texts(settings, engine, questions, asked)
    base = said if is_base else _texts(settings, engine, questions, _base_release(engine))
    return Replies(
        release_id=asked,
        is_head=asked == head,
        answers=tuple(
            Reply(question=question, head=text, base=unchanged)
            for question, text, unchanged in zip(questions, said, base, strict=True)
        ),
    )


#: Of the questions of a canary so many may be answered otherwise: ties are broken by chance.
MOST_CHANGED = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """What a release says now to the questions about its newest batch that the gate asked it."""

    release_id: int
    refresh_id: int
    asked: int
    same: int  #: answered in the same words
    changed: tuple[tuple[str, str, str], ...]  #: (question, approved answer, answer now)

    @property
    def passes(self) -> bool:
        return len(self.changed) <= MOST_CHANGED * self.asked


def ask_canary(settings: Settings, engine: Engine, *, release_id: int | None) -> Canary:
    """Ask a release (the head unless one is named) what it was approved by.

    Raises NotFound for an unknown release, Conflict for one that was never examined as a candidate
    as it is, such as the base, or whose questions were erased.
    """
    with reading(engine) as session:
        asked = lineage.read_head(session).release_id if release_id is None else release_id
        refresh_id = lineage.examined_by(session, asked)
        rows = session.scalars(
            select(ProbeAnswer)
            .where(
                ProbeAnswer.refresh_id == refresh_id,
                ProbeAnswer.stage == "after",
                ProbeAnswer.suite.in_([Suite.FORWARD, Suite.BACKWARD]),
                # an erasure overwrote some of it: it cannot be asked, or said, as it was
                ProbeAnswer.question.not_like(f"%{ERASED}%"),
                ProbeAnswer.text.not_like(f"%{ERASED}%"),
            )
            .order_by(ProbeAnswer.id)
        ).all()
        approved = [(row.question, row.text) for row in rows]
    if not approved:
        raise Conflict(f"Nothing that release {asked} was approved by can be asked any more.")
    said = _texts(settings, engine, [question for question, _ in approved], asked)
    changed = tuple(
        (question, before, now)
        for (question, before), now in zip(approved, said, strict=True)
        if now != before
    )
    return Canary(
        release_id=asked,
        refresh_id=refresh_id,
        asked=len(approved),
        same=len(approved) - len(changed),
        changed=changed,
    )


def _texts(
    settings: Settings, engine: Engine, questions: Sequence[str], release_id: int
) -> list[str]:
    with opened(settings, engine, release_id) as snapshot:
        backbone = load_backbone(snapshot, settings.base)
    texts = dict(answer_all(backbone, questions, at_most_tokens=settings.gate.answer_tokens))
    return [texts[at] for at in range(len(questions))]


def _base_release(engine: Engine) -> int:
    with reading(engine) as session:
        return lineage.first_release_id(session)
