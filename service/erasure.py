"""Facts whose every trace is to go: from the model, the files and the database.

Withdrawing a fact only marks it. Erasing it also trains every adapter of the head that saw it again
without it (service.rebase), deletes the weights and the composed models that held it, and
overwrites what it said wherever the database has it. What stays is a tombstone, so that history
still adds up, and a receipt of what went.

The order makes it safe to break off at any point and to begin again: nothing is deleted before the
head is free of it, the files go and are searched before the database, which alone knows what to
look for, and an erasure is complete only once the database's own files were written anew. They are
searched, too, by whoever overwrote the texts; an attempt that goes on after that knows them no
more, and `database_searched` in the receipt says so.
"""

import hashlib
import hmac
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from service import audit, facts, leases, lineage
from service.audit import Act
from service.auth import read_pepper
from service.db import reading, rewrite, writing
from service.errors import Conflict, LeaseLost, NotFound
from service.known_facts import adapters_that_saw
from service.models import (
    Adapter,
    Erasure,
    FactRow,
)
from service.places import Places
from service.progress import Report
from service.purge import (
    answers_of_base,
    apply,
    bury,
    changes_without,
    database_files,
    delete,
    files_of,
    only_as_erased,
    overwrite_logs,
    releases_of,
    said_by_others,
    searchable,
)
from service.rebase import Rebase, rebase
from service.record import renewing
from service.removal import RemovalPlan
from service.rollback import Rollback, take_out
from service.settings import Settings
from service.stopping import Stopping
from service.traces import Traces, files_with, traces_of

ROWS_AT_ONCE = 1000  #: overwritten in one transaction
MOST_ROUNDS = 5  #: of looking for what others wrote while the last one went on
Guarded = Callable[[], AbstractContextManager[Session]]  #: a transaction of the lease's owner


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasurePlan:
    """All that would go with some facts."""

    fact_ids: tuple[int, ...]
    adapters: tuple[int, ...]  #: that saw one of them, and are deleted
    trained_again: tuple[int, ...]  #: those of them that are in the head: their other facts stay
    releases: tuple[int, ...]  #: that cannot be gone back to any more
    files: tuple[str, ...]  #: under the state directory; whole folders among them
    rows: dict[str, int]  #: by table, in which something is overwritten
    stand_again: tuple[int, ...]  #: facts that one of them had replaced
    same_subject: tuple[int, ...]  #: other facts about one of their subjects
    said_by_others: tuple[int, ...]  #: other facts with the same statement: it stays theirs
    shared_texts: int  #: names among what they said that other facts or the suites have, too


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureEnd:
    """How far an erasure came."""

    erasure_id: int
    is_complete: bool
    receipt: dict[str, Any] | None
    rebase: Rebase | None = None  #: where adapters were trained again
    rollback: Rollback | None = None  #: where the head moved
    found_in: tuple[str, ...] = ()  #: files that still hold a text, where it is not complete


def plan_erasure(settings: Settings, engine: Engine, fact_ids: Sequence[int]) -> ErasurePlan:
    """What would go; nothing does. Raises NotFound, and Conflict for a fact that is erased."""
    with reading(engine) as session:
        return _plan(session, settings, fact_ids)


def _plan(session: Session, settings: Settings, fact_ids: Sequence[int]) -> ErasurePlan:
    rows = _rows(session, fact_ids)
    ids = [row.id for row in rows]
    adapters = [adapter for adapter in adapters_that_saw(session, ids) if adapter.erased_at is None]
    in_head = lineage.read_head(session).recipe.adapter_ids
    traces = traces_of(session, rows, settings.suites)
    subjects = [row.subject for row in rows if row.subject]
    others = FactRow.id.not_in(ids) & FactRow.erased_at.is_(None)
    return ErasurePlan(
        fact_ids=tuple(ids),
        adapters=tuple(adapter.id for adapter in adapters),
        trained_again=tuple(adapter.id for adapter in adapters if adapter.id in in_head),
        releases=tuple(releases_of(session, adapters)),
        files=tuple(_name(path, settings) for path in files_of(session, settings, adapters)),
        rows=dict(Counter(change.table for change in changes_without(session, ids, traces))),
        stand_again=tuple(
            session.scalars(
                select(FactRow.id)
                .where(others, FactRow.superseded_by.in_(ids))
                .order_by(FactRow.id)
            )
        ),
        same_subject=tuple(
            session.scalars(
                select(FactRow.id).where(others, FactRow.subject.in_(subjects)).order_by(FactRow.id)
            )
        ),
        said_by_others=tuple(said_by_others(session, rows)),
        shared_texts=traces.shared,
    )


def erase(
    settings: Settings,
    engine: Engine,
    fact_ids: Sequence[int],
    *,
    by: str,
    reason: str,
    force: bool = False,
    report: Report,
    stopping: Stopping,
) -> ErasureEnd:
    """Erase facts, or go on where an earlier attempt with these ended.

    Adapters of the head that saw them are trained again without them, each through the gate; with
    `force` they are taken out unexamined instead, and what else they knew with them. Where the gate
    does not pass, nothing is deleted: the facts are withdrawn, and the erasure stays open.

    Raises NotFound and Conflict as `plan_erasure` does, LeaseHeld while a refresh runs, Conflict
    where a composed model is being read, and what a rebase raises.
    """
    now = _now()
    with writing(engine) as session:
        erasure_id = _open(session, fact_ids, by=by, reason=reason, now=now)
        ids = list(session.get_one(Erasure, erasure_id).fact_ids)
        plan = _removal_plan(session, ids, force=force)
    rebased, moved = None, None
    if plan is not None and force:
        moved = take_out(settings, engine, plan, by=by, reason=reason)
    elif plan is not None:
        rebased = rebase(
            settings, engine, plan, by=by, reason=reason, report=report, stopping=stopping
        )
        moved = rebased.rollback
        if moved is None:
            return ErasureEnd(
                erasure_id=erasure_id, is_complete=False, receipt=None, rebase=rebased
            )
    found_in = _purge(settings, engine, erasure_id, by=by)
    with reading(engine) as session:
        receipt = session.get_one(Erasure, erasure_id).receipt
    moved = moved and replace(moved, report=None)
    if rebased is not None:  # what was said of the facts is gone everywhere else
        removal = rebased.removal and replace(rebased.removal, answers=())
        rebased = replace(rebased, removal=removal, rollback=moved)
    return ErasureEnd(
        erasure_id=erasure_id,
        is_complete=not found_in,
        receipt=receipt,
        rebase=rebased,
        rollback=moved,
        found_in=tuple(found_in),
    )


def _rows(session: Session, fact_ids: Sequence[int]) -> list[FactRow]:
    rows = []
    for fact_id in sorted(set(fact_ids)):
        row = session.get(FactRow, fact_id)
        if row is None:
            raise NotFound(f"There is no fact {fact_id}.")
        if row.erased_at is not None:
            raise Conflict(
                f"Fact {fact_id} was erased at {row.erased_at.isoformat(timespec='seconds')}."
            )
        rows.append(row)
    return rows


def _open(session: Session, fact_ids: Sequence[int], *, by: str, reason: str, now: datetime) -> int:
    """The erasure of these facts that is open, or a new one; its facts are withdrawn."""
    wanted = sorted(set(fact_ids))
    for erasure in session.scalars(select(Erasure).where(Erasure.completed_at.is_(None))):
        if wanted == erasure.fact_ids:
            return erasure.id
        if set(wanted) & set(erasure.fact_ids):
            ids = " ".join(map(str, erasure.fact_ids))
            raise Conflict(
                f"Erasure {erasure.id} is open and has some of these facts: bring it to its end "
                f"first (lorewright facts erase {ids})."
            )
    for row in _rows(session, wanted):
        if row.retracted_at is None:
            facts.retract(session, row.id, by=by, now=now)
    erasure = Erasure(fact_ids=wanted, reason=reason, requested_by=by, requested_at=now)
    session.add(erasure)
    session.flush()
    about = {"erasure": erasure.id, "facts": wanted}
    audit.record(session, Act.ERASURE_BEGUN, by=by, about=about, now=now)
    return erasure.id


def _removal_plan(session: Session, fact_ids: Sequence[int], *, force: bool) -> RemovalPlan | None:
    """How the head gets free of the facts; None where it is."""
    head = lineage.read_head(session)
    in_head = head.recipe.adapter_ids
    saw = [adapter.id for adapter in adapters_that_saw(session, fact_ids) if adapter.id in in_head]
    if not saw:
        return None
    first = min(in_head.index(adapter_id) for adapter_id in saw)
    return RemovalPlan(
        head=head,
        recipe=lineage.recipe_without(session, *saw) if force else head.recipe,
        taken_out=tuple(saw) if force else (),
        trained_on_them=() if force else in_head[first:],
        release_id=None,
        erased=tuple(fact_ids),
    )


def _purge(settings: Settings, engine: Engine, erasure_id: int, *, by: str) -> list[str]:
    """Delete and overwrite under the refresh's lease; what still holds something, by name."""
    with _lease_of_refresh(settings, engine) as guarded:
        with guarded() as session:
            _give_up_weights(session, settings, erasure_id, now=_now())
        with reading(engine) as session:
            erasure = session.get_one(Erasure, erasure_id)
            ids, receipt = list(erasure.fact_ids), dict(erasure.receipt or {})
            rows = [session.get_one(FactRow, fact_id) for fact_id in ids]
            rows = [row for row in rows if row.erased_at is None]
            files = files_of(session, settings, adapters_that_saw(session, ids))
            traces = traces_of(session, rows, settings.suites)
            twins = said_by_others(session, rows)
            of_base = answers_of_base(session)
        for path in files:
            delete(path, Places(settings.state_dir))
        logs = overwrite_logs(Places(settings.state_dir), traces)
        found, count = files_with(traces.own, searchable(settings, engine, of_base))
        if found:
            return [_name(path, settings) for path in found]
        if rows:
            receipt["files"] = [_name(path, settings) for path in files]
            receipt["files_searched"] = count
            receipt["logs_overwritten"] = logs
            receipt["said_by_others"] = twins
            receipt["texts"], receipt["texts_kept"] = len(traces.own), traces.shared
            receipt["rows_overwritten"] = _overwrite(engine, guarded, ids, traces)
            with guarded() as session:
                bury(session, settings, ids, now=_now())
                session.get_one(Erasure, erasure_id).receipt = receipt
        rewrite(engine)
        found = []
        if database_files(engine):
            with reading(engine) as session:
                telling = only_as_erased(session, traces.own)
            found, _ = files_with(telling, database_files(engine), whole_words=False)
        if found or receipt.get("found_in_database"):
            return _keep_open(engine, erasure_id, receipt)
        with guarded() as session:
            erasure = session.get_one(Erasure, erasure_id)
            erasure.receipt = receipt | {"database_searched": bool(rows and database_files(engine))}
            erasure.completed_at = _now()
            about = {"erasure": erasure_id, "adapters": sorted(receipt.get("adapters", {}))}
            audit.record(session, Act.ERASURE_COMPLETED, by=by, about=about, now=_now())
        return []


def _overwrite(
    engine: Engine, guarded: Guarded, fact_ids: Sequence[int], traces: Traces
) -> dict[str, int]:
    """Overwrite the traces in all tables but the facts' own; the rows it took, by table.

    All rows are read without a lock, and written a part at a time, so that nobody waits for long;
    and looked at once more after that, since others wrote meanwhile.
    """
    counts: Counter[str] = Counter()
    for _ in range(MOST_ROUNDS):
        with reading(engine) as session:
            changes = list(changes_without(session, fact_ids, traces))
        if not changes:
            break
        for first in range(0, len(changes), ROWS_AT_ONCE):
            with guarded() as session:
                counts.update(apply(session, changes[first : first + ROWS_AT_ONCE]))
    return dict(counts)


def _give_up_weights(
    session: Session, settings: Settings, erasure_id: int, *, now: datetime
) -> None:
    """Mark the adapters that are about to be deleted, so that no head can go back to them.

    Raises Conflict where the head has one: somebody moved it meanwhile.
    """
    erasure = session.get_one(Erasure, erasure_id)
    adapters = adapters_that_saw(session, erasure.fact_ids)
    new = [adapter for adapter in adapters if adapter.erased_at is None]
    for adapter in new:
        adapter.erased_at = now
    session.flush()  # waits for whoever moves the head to one of them, and then sees it there
    in_head = set(lineage.read_head(session).recipe.adapter_ids)
    back = [adapter.id for adapter in adapters if adapter.id in in_head]
    if back:
        raise Conflict(
            f"The head moved meanwhile, and adapters {', '.join(map(str, back))}, which saw the "
            "facts, are in it again. Nothing is deleted; erase them once more."
        )
    rows = [session.get_one(FactRow, fact_id) for fact_id in erasure.fact_ids]
    telling = _receipt(session, settings, rows, new)
    before = erasure.receipt or {}
    erasure.receipt = {
        **telling,
        **before,
        "adapters": before.get("adapters", {}) | telling["adapters"],
    }


def _keep_open(engine: Engine, erasure_id: int, receipt: dict[str, Any]) -> list[str]:
    """Once overwritten, the texts cannot be looked for again: it must not look complete later."""
    with writing(engine) as session:
        receipt = receipt | {"found_in_database": True}
        session.get_one(Erasure, erasure_id).receipt = receipt
    return ["the database, where they should have been overwritten: this is a fault of ours"]


@contextmanager
def _lease_of_refresh(settings: Settings, engine: Engine) -> Iterator[Guarded]:
    """No refresh, rebase or collection begins before the block ends.

    What it gives makes a write transaction that fails with LeaseLost where one has begun after all.
    """
    lease_s = settings.schedule.lease_s
    with writing(engine) as session:
        hold = leases.acquire_refresh(session, now=_now(), lease_s=lease_s)

    @contextmanager
    def guarded() -> Iterator[Session]:
        with writing(engine) as session:
            leases.renew(session, hold, now=_now(), lease_s=lease_s)
            yield session

    try:
        with renewing(engine, hold, settings.schedule, seen=time.monotonic):
            yield guarded
    finally:
        with writing(engine) as session, suppress(LeaseLost):
            leases.release(session, hold, now=_now())


def _name(path: Path, settings: Settings) -> str:
    return path.relative_to(settings.state_dir).as_posix()


def _receipt(
    session: Session,
    settings: Settings,
    rows: Sequence[FactRow],
    adapters: Sequence[Adapter],
) -> dict[str, Any]:
    """What goes, by numbers and digests alone.

    A statement's code can be checked by who has the statement and this installation's pepper; its
    plain digest could be guessed.
    """
    pepper = read_pepper(settings.state_dir)
    return {
        "statements": {
            str(row.id): hmac.new(pepper, row.statement.encode(), hashlib.sha256).hexdigest()
            for row in rows
        },
        "adapters": {str(adapter.id): adapter.digest for adapter in adapters},
        "releases": releases_of(session, adapters),
    }


def _now() -> datetime:
    return datetime.now(UTC)
