"""The audit log: what somebody did that changes what is served, who may call, or what is kept.

Each entry has the digest of the one before, so that none can be changed, removed or put in between
without breaking the chain; and it is written in the transaction of what it tells of, so that there
is neither one without the other. It names things by their numbers and digests, and never says what
a fact says: an erasure must not break the chain.

Who can write to the database could forge the whole chain. Note its newest digest elsewhere
(`lorewright audit verify` prints it, and the webhook's messages have it) to find that out, too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from adapters.store import canonical_digest
from service.models import AuditEntry, HeadMove

FIRST = "0" * 64  #: stands before the first entry
LOCK = 0x6C77617564  #: of PostgreSQL: two transactions would see the same newest entry


class Act(StrEnum):
    """What was done."""

    LOG_BEGUN = "log_begun"  #: the first entry, by the migration that made the log
    HEAD_MOVED = "head_moved"
    KEY_CREATED = "key_created"
    KEY_ENDS = "key_ends"  #: it was replaced, and is good for a while yet
    KEY_REVOKED = "key_revoked"
    FACT_RETRACTED = "fact_retracted"
    FACT_APPROVED = "fact_approved"
    ERASURE_BEGUN = "erasure_begun"
    ERASURE_COMPLETED = "erasure_completed"
    PIN_ADDED = "pin_added"
    PIN_REMOVED = "pin_removed"
    RELEASE_PINNED = "release_pinned"
    RELEASE_UNPINNED = "release_unpinned"
    OPERATION_REQUESTED = "operation_requested"
    BACKED_UP = "backed_up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What was found."""

    entries: int
    newest_digest: str
    problems: tuple[str, ...]


def record(session: Session, act: Act, *, by: str, about: dict[str, Any], now: datetime) -> None:
    """Append an entry, in the caller's transaction. `about` has numbers, names of ours, digests."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    session.flush()  # an entry before this one may not be written yet
    newest = session.scalar(select(AuditEntry).order_by(AuditEntry.seq.desc()).limit(1))
    entry = AuditEntry(
        seq=1 if newest is None else newest.seq + 1,
        at=now,
        act=act,
        by=by,
        about=about,
        previous=FIRST if newest is None else newest.digest,
    )
    entry.digest = digest_of(entry)
    session.add(entry)
    session.flush()


def digest_of(entry: AuditEntry) -> str:
    """sha256 of all that an entry says, and of the digest of the one before it."""
    said = [entry.seq, entry.at.isoformat(), entry.act, entry.by, entry.about, entry.previous]
    return canonical_digest(said)


def digest_of_move(session: Session, seq: int) -> str | None:
    """The digest of the entry that tells of a head move; None where one from before has none."""
    told = (
        select(AuditEntry).where(AuditEntry.act == Act.HEAD_MOVED).order_by(AuditEntry.seq.desc())
    )
    for entry in session.scalars(told):
        if entry.about["seq"] == seq:
            return entry.digest
    return None


def verify(session: Session, *, expect: str | None = None) -> Audit:
    """Follow the chain, and hold the head's history against it.

    A digest that was noted elsewhere, `expect`, must be that of one of its entries.
    """
    problems = []
    is_found = expect is None
    previous, count, moves, before_log = FIRST, 0, {}, 0
    for entry in session.scalars(select(AuditEntry).order_by(AuditEntry.seq)):
        count += 1
        if entry.seq != count:
            problems.append(f"Entry {count} is missing.")
            count = entry.seq
        if entry.previous != previous:
            problems.append(f"Entry {entry.seq} does not follow from the one before it.")
        if entry.digest != digest_of(entry):
            problems.append(f"Entry {entry.seq} was changed.")
        previous = entry.digest
        is_found = is_found or entry.digest == expect
        if entry.act == Act.LOG_BEGUN:
            before_log = entry.about["head_moves"]
        if entry.act == Act.HEAD_MOVED:
            moves[entry.about["seq"]] = entry.about
    if count == 0:
        problems.append("The log is empty, and had an entry when it was made.")
    if not is_found:
        problems.append("No entry has the digest that is expected: the chain was made anew.")
    problems += _unlike(session, moves, before_log)
    return Audit(entries=count, newest_digest=previous, problems=tuple(problems))


def about_move(move: HeadMove) -> dict[str, Any]:
    """What the log says of a head move."""
    return {
        "seq": move.seq,
        "release": move.release_id,
        "action": str(move.action),
        "refresh": move.refresh_id,
    }


def _unlike(session: Session, moves: dict[int, dict[str, Any]], before_log: int) -> Iterator[str]:
    """Head moves that the log tells otherwise or not at all, but for those from before it."""
    seen = set()
    for move in session.scalars(select(HeadMove).where(HeadMove.seq > before_log)):
        seen.add(move.seq)
        told = moves.get(move.seq)
        if told is None:
            yield f"Head move {move.seq} is not in the log."
        elif {name: told[name] for name in about_move(move)} != about_move(move):
            yield f"Head move {move.seq} is not as the log has it."
    for seq in sorted(set(moves) - seen):
        yield f"Head move {seq} of the log is not there any more."
