"""Ask a release, and beside it the base, the same questions."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine

from adapters.backbones import load_backbone
from adapters.generate import answer_all
from service import lineage
from service.db import reading
from service.settings import Settings
from service.snapshots import opened


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
