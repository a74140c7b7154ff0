"""What goes with an erasure, and how: files, logs, and text in the database (service.erasure)."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Engine, String, inspect, select, text, update
from sqlalchemy.orm import Session

from adapters.store import PARTIAL, clear, is_alive, is_read, writer_if_free, written_as
from adapters.types import Suite
from service import facts, lineage, pins
from service.auth import read_pepper
from service.errors import Conflict
from service.models import (
    Adapter,
    Base,
    FactRow,
    LeftOut,
    Membership,
    Pin,
    ProbeAnswer,
    Release,
    ReleaseAdapter,
)
from service.places import DIGEST_CHARACTERS, Places
from service.settings import Settings
from service.traces import ERASED, NEVER_TEXT, Traces, blanked, overwriter, strings

#: Where the database may hold what a fact said, beside the table of facts. Every other column of
#: text holds names of ours (tests/service/test_erasure.py has the list of both).
HOLDS_TEXT = {
    "deliveries": ("error",),
    "erasures": ("reason",),
    "facts": ("held_reason",),  # of others: it may quote a fact; their own go with their rows
    "head_moves": ("reason", "report"),
    "left_out": ("reason",),
    "memberships": ("reason",),
    "operations": ("arguments", "reason", "result", "error"),
    "pinned_releases": ("reason",),
    "pins": ("question", "answers", "reason"),
    "probe_answers": ("question", "answers", "text"),
    "refreshes": ("reason", "verdict"),
}


# --- files ----------------------------------------------------------------------------------------


def releases_of(session: Session, adapters: Sequence[Adapter]) -> list[int]:
    wanted = ReleaseAdapter.adapter_id.in_([adapter.id for adapter in adapters])
    found = select(ReleaseAdapter.release_id).where(wanted).distinct()
    return sorted(session.scalars(found))


def files_of(session: Session, settings: Settings, adapters: Sequence[Adapter]) -> list[Path]:
    """The files and folders that hold a fact, or may.

    So may weights that no row of the database tells of, which a process left that was killed.
    """
    places = Places(settings.state_dir)
    gone = {adapter.id for adapter in adapters}
    known = session.scalars(select(Adapter).where(Adapter.erased_at.is_(None)))
    kept = {places.adapter(adapter.digest) for adapter in known if adapter.id not in gone}
    found = [path for path in _inside(places.adapters) if path.is_dir() and path not in kept]
    cannot_be_made = set(releases_of(session, adapters))
    kept = {
        places.snapshot(release.recipe_digest)
        for release in session.scalars(select(Release))
        if release.id not in cannot_be_made
    }
    found += [path for path in _inside(places.snapshots) if path.is_dir() and path not in kept]
    found += _inside(places.logs, "refresh-*.log")  # tables, in which a name is cut in pieces
    of_base = answers_of_base(session)
    found += [path for path in _inside(places.answers) if not path.name.startswith(of_base)]
    found += [places.checkpoint, *_inside(places.candidates)]
    for folder in (places.state_dir, places.adapters, places.snapshots):
        found += [path for path in _inside(folder) if path.name.endswith(PARTIAL)]
    return sorted({path for path in found if path.exists() or path.is_symlink()})


def answers_of_base(session: Session) -> str:
    """How the files begin that keep what the base says, which never saw a fact."""
    return f"{lineage.read_head(session).recipe.base_digest[:DIGEST_CHARACTERS]}-"


def _inside(folder: Path, pattern: str = "*") -> list[Path]:
    return sorted(folder.glob(pattern)) if folder.is_dir() else []


def delete(path: Path, places: Places) -> None:
    """Raises Conflict for a composed model that somebody reads, writes or examines."""
    used = Conflict(
        f"A process still uses {path}, a model that may know the facts. Once it has ended, erase "
        "them again: what is done stays done."
    )
    examined_by = re.fullmatch(r"without-\w+-(\d+)", path.name)
    if path.parent == places.candidates and examined_by and is_alive(int(examined_by.group(1))):
        raise used
    if path.parent != places.snapshots:
        clear(path)
        return
    snapshot = written_as(path)
    with writer_if_free(snapshot) as is_free:
        if not is_free or is_read(snapshot):
            raise used
        clear(path)


def overwrite_logs(places: Places, traces: Traces) -> int:
    """How many log files held a trace. In place, as a process may be writing to one."""
    overwritten = overwriter(traces)
    count = 0
    for path in _inside(places.logs, "*.log"):
        text = path.read_text(encoding="utf-8", errors="replace")
        cleaned = overwritten(text)
        if cleaned != text:
            path.write_text(cleaned, encoding="utf-8")
            count += 1
    return count


def searchable(settings: Settings, engine: Engine, of_base: str) -> Iterator[Path]:
    """Every file under the state directory but the database, numbers, the base and its words."""
    places = Places(settings.state_dir)
    apart = (places.base, places.anchors)
    database = database_files(engine)
    for path in sorted(settings.state_dir.rglob("*")):
        if path.is_symlink() or not path.is_file() or path.resolve() in database:
            continue
        if any(path.is_relative_to(folder) for folder in apart):
            continue
        if path.parent == places.answers and path.name.startswith(of_base):
            continue
        if not any(path.match(pattern) for pattern in NEVER_TEXT):
            yield path


def database_files(engine: Engine) -> list[Path]:
    """SQLite's own files, wherever they lie."""
    if engine.url.get_backend_name() != "sqlite":
        return []
    file = Path(str(engine.url.database)).resolve()
    return [file.with_name(file.name + end) for end in ("", "-wal", "-shm")]


# --- the database ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """A row of a table, and what it is to say."""

    kind: type[Base]
    values: dict[str, Any]  #: its key, and all of its texts as they will be

    @property
    def table(self) -> str:
        return str(self.kind.__tablename__)


def changes_without(session: Session, fact_ids: Sequence[int], traces: Traces) -> Iterator[Change]:
    """How all tables but the facts' own must change for nothing of the facts to be left there.

    What was asked and said about one of the facts goes whole; elsewhere only its texts do.
    """
    overwritten = overwriter(traces)
    gone = set(fact_ids)
    named = re.compile(rf"\b[Ff]acts? (?:{'|'.join(map(str, sorted(gone)))})\b")
    asked_of = tuple(f"{Suite.SUPERSEDED}/{fact_id}/" for fact_id in gone)
    renamed: dict[tuple[int, str], str] = {}  # the same before and after, which are paired by it
    for mapper in sorted(Base.registry.mappers, key=lambda mapper: mapper.class_.__name__):
        kind = mapper.class_
        names = HOLDS_TEXT.get(kind.__tablename__, ())
        if not names:
            continue
        keys = [column.name for column in inspect(kind).primary_key]
        about = ["fact_id"] if "fact_id" in kind.__table__.columns else []
        also = ["refresh_id", "probe_key"] if kind is ProbeAnswer else []
        columns = [getattr(kind, name) for name in (*keys, *about, *names, *also)]
        for row in session.execute(select(*columns).execution_options(yield_per=1000)).mappings():
            is_about = bool(about) and row["fact_id"] in gone
            is_about |= kind is ProbeAnswer and row["probe_key"].startswith(asked_of)
            if kind in (Membership, LeftOut, FactRow):
                is_about |= bool(named.search(row[names[0]] or ""))
            new = {
                name: blanked(row[name]) if is_about else _without(row[name], gone, overwritten)
                for name in names
            }
            if kind is ProbeAnswer and overwritten(row["probe_key"]) != row["probe_key"]:
                asked = (row["refresh_id"], row["probe_key"])  # a trigger's key has its words
                new["probe_key"] = renamed.setdefault(asked, f"erased/{row['id']}")
            if any(new[name] != row[name] for name in new):
                yield Change(kind, {**{key: row[key] for key in keys}, **new})


def apply(session: Session, changes: Sequence[Change]) -> dict[str, int]:
    """Make changes; how many in each table."""
    by_kind: dict[type[Base], list[dict[str, Any]]] = {}
    for change in changes:
        by_kind.setdefault(change.kind, []).append(change.values)
    for kind, rows in by_kind.items():
        session.execute(update(kind), rows)
        if kind is Pin:
            _remove_pins(session, [row["id"] for row in rows])
    return {kind.__tablename__: len(rows) for kind, rows in by_kind.items()}


def only_as_erased(session: Session, texts: Sequence[str]) -> list[str]:
    """The texts that no row says any more, not even as a part of a word, nor the schema.

    Only these can tell, in the database's bytes, that something was not overwritten: where words
    end cannot be seen there, and "Ana Li" is in "Ana Lima".
    """
    left = {text.casefold(): text for text in texts}
    finder = re.compile("|".join(map(re.escape, left)) or r"(?!)", re.IGNORECASE)
    for said in _all_texts(session):
        if finder.search(said):
            folded = said.casefold()
            for text in [text for text in left if text in folded]:
                del left[text]
    return [text for text in left.values() if " " in text]  # one word may be a word of ours


def _all_texts(session: Session) -> Iterator[str]:
    if session.get_bind().dialect.name == "sqlite":
        for made in session.execute(text("SELECT sql FROM sqlite_master")).scalars():
            yield made or ""
    for table in Base.metadata.sorted_tables:
        columns = [column for column in table.columns if isinstance(column.type, (String, JSON))]
        if not columns:
            continue
        for row in session.execute(select(*columns).execution_options(yield_per=1000)):
            yield from (said for value in row for said in strings(value))


def said_by_others(session: Session, rows: Sequence[FactRow]) -> list[int]:
    """Other facts that were told in the same words, by another source or under another key."""
    wanted = sorted({row.statement for row in rows if row.erased_at is None})
    own = [row.id for row in rows]
    same = select(FactRow.id).where(FactRow.statement.in_(wanted), FactRow.id.not_in(own))
    return list(session.scalars(same.order_by(FactRow.id)))


def _remove_pins(session: Session, changed: Sequence[int]) -> None:
    """Those of which neither question nor answer is what was pinned any more."""
    for pin in session.scalars(select(Pin).where(Pin.id.in_(changed), Pin.removed_at.is_(None))):
        if ERASED in pin.question or any(ERASED in answer for answer in pin.answers):
            pins.unpin(session, pin.id, by="erasure", now=datetime.now(UTC))


def _without(value: Any, gone: set[int], overwritten: Callable[[Any], Any]) -> Any:
    """JSON that says of some of its parts which fact they are about, or any other value."""
    if isinstance(value, dict):
        if value.get("fact_id") in gone:
            return blanked(value)
        return {key: _without(part, gone, overwritten) for key, part in value.items()}
    if isinstance(value, list):
        return [_without(part, gone, overwritten) for part in value]
    return overwritten(value)


def bury(
    session: Session,
    settings: Settings,
    fact_ids: Sequence[int],
    *,
    now: datetime,
) -> None:
    """Leave tombstones of the facts."""
    pepper = read_pepper(settings.state_dir)
    for fact_id in fact_ids:
        row = session.get_one(FactRow, fact_id)
        if row.erased_at is not None:
            continue
        row.external_id = facts.key_once_erased(row.source, row.external_id, pepper)
        row.statement, row.body_digest = ERASED, ""
        row.subject = row.relation = row.object = None
        row.qualifiers, row.provenance, row.tags, row.probes = {}, {}, [], []
        row.valid_from = row.valid_to = row.retention_until = None
        row.trust = row.confidence = row.held_reason = None
        row.functional = False
        row.erased_at = now
