"""The tables. What happened is written once; states are derived from it (`service.facts`)."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    MetaData,
    String,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class MembershipOutcome(StrEnum):
    """What became of a fact in a batch; none yet while the batch is in work.

    Whether the adapter is still in the head is no outcome: the head's recipe says so.
    """

    LEARNED = "learned"  #: the adapter was promoted and the fact's own probes passed
    UNLEARNED = "unlearned"  #: promoted, but the fact's own probes did not pass; it is tried again
    QUARANTINED = "quarantined"  #: the same, and it was the last try
    UNPROVEN = "unproven"  #: the adapter was promoted, and the fact has no probes
    UNDECIDED = "undecided"  #: the gate could not tell; the fact is tried again among more
    REJECTED = "rejected"  #: the gate did not pass the adapter, or the fact could not be trained
    FREED = "freed"  #: the refresh ended without a verdict; the fact waits again


class RefreshOutcome(StrEnum):
    """How a refresh ended; none yet while it runs."""

    PROMOTED = "promoted"
    REBASED = "rebased"  #: the gate passed it beside the head, as a part of a rebase
    REJECTED = "rejected"  #: the gate said fail
    INSUFFICIENT = "insufficient_evidence"  #: the gate could not tell; the head stays
    OVERTAKEN = "overtaken"  #: the head moved meanwhile; the facts wait for the next refresh
    STOPPED = "stopped"  #: a signal asked it to end; the facts wait for the next refresh
    HINDERED = "hindered"  #: disk, model files or settings failed it, not the facts; they wait
    FAILED = "failed"  #: an error in the work itself, with its reason; counts against the facts
    ABANDONED = "abandoned"  #: the process ended without a word


class HeadAction(StrEnum):
    """Why the head moved."""

    INIT = "init"
    PROMOTION = "promotion"
    APPROVAL = "approval"  #: an admin let in what the gate could not decide
    ROLLBACK = "rollback"
    REBASE = "rebase"  #: an adapter was taken out, and later ones were trained again without it
    FORCED_ROLLBACK = "forced_rollback"  #: nobody looked first at what it does to the answers


class Utc(TypeDecorator[datetime]):
    """A moment in UTC. SQLite forgets the zone, so it is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError("A moment without a time zone cannot be stored.")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: Utc, dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012


class ApiKey(Base):
    """Who may call. The secret itself is stored nowhere."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    digest: Mapped[str]  #: HMAC-SHA256 of the secret with the installation's pepper
    source: Mapped[str]  #: who sends with it; the namespace of external ids
    scopes: Mapped[list[Any]]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class FactRow(Base):
    """One piece of knowledge as received."""

    __tablename__ = "facts"
    __table_args__ = (
        UniqueConstraint("source", "external_id"),
        # Of names as long as they may be, two would not fit into a row of PostgreSQL's index.
        Index("ix_facts_subject", "subject"),
        # Of those alone that were: nearly all others have none, and each would be another entry.
        Index(
            "ix_facts_superseded_by",
            "superseded_by",
            sqlite_where=text("superseded_by IS NOT NULL"),
            postgresql_where=text("superseded_by IS NOT NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    source: Mapped[str]  #: who told us: the source of the API key
    external_id: Mapped[str]
    body_digest: Mapped[str]
    statement: Mapped[str]
    subject: Mapped[str | None]
    relation: Mapped[str | None]
    object: Mapped[str | None]
    qualifiers: Mapped[dict[str, Any]]
    functional: Mapped[bool]
    valid_from: Mapped[datetime | None]
    valid_to: Mapped[datetime | None]
    provenance: Mapped[dict[str, Any]]  #: where the source has it from
    confidence: Mapped[float | None]
    trust: Mapped[str | None]
    tags: Mapped[list[Any]]
    retention_until: Mapped[datetime | None]
    probes: Mapped[list[Any]]  #: those given with the fact
    recorded_at: Mapped[datetime]
    recorded_by: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    superseded_by: Mapped[int | None] = mapped_column(ForeignKey("facts.id"))
    retracted_at: Mapped[datetime | None]
    held_reason: Mapped[str | None]  #: why an admin must approve it before it is trained
    approved_at: Mapped[datetime | None]
    approved_by: Mapped[str | None]
    erased_at: Mapped[datetime | None]  #: since then only a tombstone: nothing that it said is left


class Release(Base):
    """A recipe: the base and an ordered list of adapters. Never edited."""

    __tablename__ = "releases"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    recipe_digest: Mapped[str] = mapped_column(unique=True)
    base_digest: Mapped[str]
    snapshot_digest: Mapped[str]  #: of the composed model; every rebuild must give it again
    created_at: Mapped[datetime]


class Refresh(Base):
    """One pass: claim, train, probe, judge, record."""

    __tablename__ = "refreshes"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    lease_token: Mapped[int]
    trained_on: Mapped[int] = mapped_column(ForeignKey("releases.id"))
    outcome: Mapped[str | None]
    reason: Mapped[str | None]
    phase: Mapped[str]
    step: Mapped[int]
    steps: Mapped[int]
    timings: Mapped[dict[str, Any]]  #: seconds by phase
    verdict: Mapped[dict[str, Any] | None]


class Batch(Base):
    """The facts that one adapter is trained on."""

    __tablename__ = "batches"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    refresh_id: Mapped[int] = mapped_column(ForeignKey("refreshes.id"), unique=True)
    created_at: Mapped[datetime]


class Membership(Base):
    """A fact in a batch, and what became of it there: the only record of a fact's state."""

    __tablename__ = "memberships"

    batch_id: Mapped[int] = mapped_column(ForeignKey("batches.id"), primary_key=True)
    fact_id: Mapped[int] = mapped_column(ForeignKey("facts.id"), primary_key=True, index=True)
    outcome: Mapped[str | None]
    reason: Mapped[str | None]
    decided_at: Mapped[datetime | None]


class Replay(Base):
    """A fact of an earlier batch that was shown again while another one was trained."""

    __tablename__ = "replays"

    batch_id: Mapped[int] = mapped_column(ForeignKey("batches.id"), primary_key=True)
    fact_id: Mapped[int] = mapped_column(ForeignKey("facts.id"), primary_key=True, index=True)


class Replacement(Base):
    """A learned fact of which something was shown while a fact that replaced it was trained."""

    __tablename__ = "replacements"

    batch_id: Mapped[int] = mapped_column(ForeignKey("batches.id"), primary_key=True)
    fact_id: Mapped[int] = mapped_column(ForeignKey("facts.id"), primary_key=True, index=True)


class LeftOut(Base):
    """A direction in which a fact of a batch, or of its retention, was not asked, and why."""

    __tablename__ = "left_out"

    batch_id: Mapped[int] = mapped_column(ForeignKey("batches.id"), primary_key=True)
    fact_id: Mapped[int] = mapped_column(ForeignKey("facts.id"), primary_key=True, index=True)
    direction: Mapped[str] = mapped_column(primary_key=True)
    reason: Mapped[str]


class Pin(Base):
    """A question that an admin pinned: no later release may lose its answer."""

    __tablename__ = "pins"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    question: Mapped[str]
    answers: Mapped[list[Any]]
    reason: Mapped[str]
    pinned_by: Mapped[str]
    pinned_at: Mapped[datetime]
    removed_at: Mapped[datetime | None]


class TrainingLoss(Base):
    """The loss curve."""

    __tablename__ = "training_losses"

    refresh_id: Mapped[int] = mapped_column(ForeignKey("refreshes.id"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    loss: Mapped[float]  #: nats a target token
    drift: Mapped[float]  #: KL from the base on general rows, nats a token
    tokens: Mapped[int]


class ProbeAnswer(Base):
    """What a model said to one probe: the head (before), the candidate (after) or, as a control,
    the base, without the batch's facts before the question (base) or with them (prompted)."""

    __tablename__ = "probe_answers"
    __table_args__ = (UniqueConstraint("refresh_id", "stage", "probe_key"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    refresh_id: Mapped[int] = mapped_column(ForeignKey("refreshes.id"))
    stage: Mapped[str]  #: before, after, base or prompted
    suite: Mapped[str]
    probe_key: Mapped[str]
    fact_id: Mapped[int | None] = mapped_column(ForeignKey("facts.id"), index=True)
    question: Mapped[str]
    answers: Mapped[list[Any]]
    origin: Mapped[str]
    text: Mapped[str]
    exact: Mapped[bool]
    contained: Mapped[bool]
    recall: Mapped[float]


class PassageBits(Base):
    """Bits per byte of one fixed passage, before and after."""

    __tablename__ = "passage_bits"

    refresh_id: Mapped[int] = mapped_column(ForeignKey("refreshes.id"), primary_key=True)
    stage: Mapped[str] = mapped_column(primary_key=True)
    passage: Mapped[str] = mapped_column(primary_key=True)
    bits_per_byte: Mapped[float]


class Adapter(Base):
    """The LoRA weights of one batch, promoted or not."""

    __tablename__ = "adapters"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    batch_id: Mapped[int] = mapped_column(ForeignKey("batches.id"), unique=True)
    refresh_id: Mapped[int] = mapped_column(ForeignKey("refreshes.id"), unique=True)
    trained_on: Mapped[int] = mapped_column(ForeignKey("releases.id"))
    digest: Mapped[str]
    base_digest: Mapped[str]
    about: Mapped[dict[str, Any]]  #: configuration, seed and versions it was trained with
    created_at: Mapped[datetime]
    erased_at: Mapped[datetime | None]  #: since then its weights are gone, with a fact's erasure


class ReleaseAdapter(Base):
    """One line of a release's recipe."""

    __tablename__ = "release_adapters"

    release_id: Mapped[int] = mapped_column(ForeignKey("releases.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"))


class PinnedRelease(Base):
    """A release whose composed model stays on the disk however old it gets."""

    __tablename__ = "pinned_releases"

    release_id: Mapped[int] = mapped_column(ForeignKey("releases.id"), primary_key=True)
    reason: Mapped[str]
    pinned_by: Mapped[str]
    pinned_at: Mapped[datetime]


class HeadMove(Base):
    """The head's history, append-only; the highest `seq` is the head.

    Inserting seq = expected + 1 is the compare-and-swap: of two that saw the same head, one fails
    at the primary key. The unique refresh promotes an adapter once.
    """

    __tablename__ = "head_moves"

    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    release_id: Mapped[int] = mapped_column(ForeignKey("releases.id"))
    action: Mapped[str]
    by: Mapped[str]
    reason: Mapped[str]
    moved_at: Mapped[datetime]
    refresh_id: Mapped[int | None] = mapped_column(ForeignKey("refreshes.id"), unique=True)
    report: Mapped[dict[str, Any] | None]  #: what the removal gate found (service.removal)


class Delivery(Base):
    """What became of telling the webhook's receiver of a head move; none before the first try."""

    __tablename__ = "deliveries"

    seq: Mapped[int] = mapped_column(ForeignKey("head_moves.seq"), primary_key=True)
    attempts: Mapped[int]
    error: Mapped[str | None]  #: of the last attempt
    next_at: Mapped[datetime]  #: no attempt before
    delivered_at: Mapped[datetime | None]


class AuditEntry(Base):
    """One act, and the digest of the entry before it (service.audit). Never changed."""

    __tablename__ = "audit"

    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    act: Mapped[str]
    by: Mapped[str]
    about: Mapped[dict[str, Any]]
    previous: Mapped[str]
    digest: Mapped[str]


class Operation(Base):
    """What an admin asked for over HTTP that loads a model, and what came of it."""

    __tablename__ = "operations"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    kind: Mapped[str]
    arguments: Mapped[list[Any]]  #: of the command that it is carried out by
    reason: Mapped[str]
    requested_by: Mapped[str]
    requested_at: Mapped[datetime]
    owner: Mapped[str | None]  #: the daemon that carries it out
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    exit_code: Mapped[int | None]  #: None where it was interrupted
    result: Mapped[dict[str, Any] | None]  #: what the command printed
    error: Mapped[str | None]


class Erasure(Base):
    """Facts whose every trace was to go, and the receipt of what went (service.erasure)."""

    __tablename__ = "erasures"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    fact_ids: Mapped[list[Any]]
    reason: Mapped[str]
    requested_by: Mapped[str]
    requested_at: Mapped[datetime]
    completed_at: Mapped[datetime | None]  #: None while something of it is still there
    receipt: Mapped[dict[str, Any] | None]


class Lease(Base):
    """Who may refresh. The token rises with every owner, so an old one can be told apart."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str]
    token: Mapped[int]
    expires_at: Mapped[datetime]
