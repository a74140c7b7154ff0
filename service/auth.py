"""API keys: `lw_<id>_<secret>`, of which only an HMAC is stored.

The pepper of the HMAC lies in the state directory, not in the database: neither alone is enough to
test guesses, and 32 random bytes leave nothing to guess. Checking a key takes microseconds, so
that a flood of wrong ones costs next to nothing.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from adapters.store import sync
from service import audit
from service.audit import Act
from service.db import reading
from service.errors import Conflict, DatabaseNotReady, NotAllowed, NotFound
from service.models import ApiKey

PEPPER = "pepper"
PREFIX = "lw"
MAX_SOURCE = 100  #: characters; with the external id it must fit into PostgreSQL's index
REMEMBERED_S = 1.0
MOST_REMEMBERED = 1000  #: keys


class Scope(StrEnum):
    """What a key may do. None of them includes another."""

    INGEST = "ingest"
    READ = "read"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who called: the key's id and its source."""

    key_id: str
    source: str
    scopes: frozenset[Scope]
    expires_at: datetime | None = None  #: of the key

    def require(self, scope: Scope) -> None:
        """Raises NotAllowed unless the key has the scope."""
        if scope not in self.scopes:
            raise NotAllowed(f"This key lacks the scope {scope}.", known=True)


def make_pepper(state_dir: Path) -> None:
    """Make the pepper, readable by its owner only, unless there is one."""
    if (state_dir / PEPPER).exists():
        return
    descriptor, name = tempfile.mkstemp(prefix=f"{PEPPER}.", suffix=".partial", dir=state_dir)
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        # Unlike a rename, a link never replaces the pepper that another process made meanwhile.
        with contextlib.suppress(FileExistsError):
            (state_dir / PEPPER).hardlink_to(partial)
    finally:
        partial.unlink()
    sync(state_dir)


def read_pepper(state_dir: Path) -> bytes:
    """Raises DatabaseNotReady when there is none: then no key can be checked."""
    try:
        pepper = (state_dir / PEPPER).read_bytes()
    except OSError as error:
        raise DatabaseNotReady(
            f"The pepper of the API keys, {state_dir / PEPPER}, cannot be read; bring it back from "
            "a backup, or run `lorewright init` where there never was one."
        ) from error
    if len(pepper) < 32:
        raise DatabaseNotReady(f"The pepper {state_dir / PEPPER} is damaged: it is too short.")
    return pepper


def create_key(
    session: Session,
    *,
    source: str,
    scopes: Collection[Scope],
    pepper: bytes,
    by: str,
    now: datetime,
    expires_at: datetime | None = None,
) -> str:
    """Make a key and return it; it cannot be shown again."""
    if not source.strip() or len(source) > MAX_SOURCE:
        raise Conflict(f"A source is a name of 1 to {MAX_SOURCE} characters.")
    if not scopes:
        raise Conflict("A key without a scope could do nothing; name at least one.")
    key_id, secret = secrets.token_hex(6), secrets.token_hex(32)
    session.add(
        ApiKey(
            id=key_id,
            digest=_digest(secret, pepper),
            source=source,
            scopes=sorted(scopes),
            created_at=now,
            expires_at=expires_at,
        )
    )
    about = {"key": key_id, "source": source, "scopes": sorted(scopes)}
    audit.record(session, Act.KEY_CREATED, by=by, about=about, now=now)
    return f"{PREFIX}_{key_id}_{secret}"


def check_key(session: Session, key: str, *, pepper: bytes, now: datetime) -> Caller:
    """Raises NotAllowed, in the same words whatever is wrong with the key."""
    prefix, _, rest = key.partition("_")
    key_id, _, secret = rest.partition("_")
    row = session.get(ApiKey, key_id) if prefix == PREFIX and key_id.isascii() else None
    # Compared even for an unknown id, so that the time taken tells nothing.
    is_right = hmac.compare_digest(row.digest if row else "0" * 64, _digest(secret, pepper))
    if row is None or not is_right or row.revoked_at is not None:
        raise NotAllowed("The API key is unknown or revoked.")
    if row.expires_at is not None and row.expires_at <= now:
        raise NotAllowed("The API key is unknown or revoked.")
    return Caller(
        key_id=row.id,
        source=row.source,
        scopes=frozenset(Scope(scope) for scope in row.scopes),
        expires_at=row.expires_at,
    )


def rotate_key(
    session: Session,
    key_id: str,
    *,
    pepper: bytes,
    old_until: datetime,
    by: str,
    now: datetime,
    expires_at: datetime | None = None,
) -> str:
    """Make another key for the same source and scopes; the old one is good until `old_until`.

    Raises NotFound for an unknown key, Conflict for one that is good no more, and for one that
    ends where it is not said when the new one does: it must not live for ever by an oversight.
    """
    row = session.get(ApiKey, key_id)
    if row is None:
        raise NotFound(f"There is no key {key_id}.")
    if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now):
        raise Conflict(f"Key {key_id} is good no more; make one with `lorewright keys create`.")
    if row.expires_at is not None and expires_at is None:
        raise Conflict(
            f"Key {key_id} ends at {row.expires_at:%Y-%m-%d %H:%M} (UTC); say with --days how long "
            "the new one is good."
        )
    key = create_key(
        session,
        source=row.source,
        scopes=[Scope(scope) for scope in row.scopes],
        pepper=pepper,
        by=by,
        now=now,
        expires_at=expires_at,
    )
    row.expires_at = old_until if row.expires_at is None else min(row.expires_at, old_until)
    about = {"key": key_id, "expires_at": row.expires_at.isoformat()}
    audit.record(session, Act.KEY_ENDS, by=by, about=about, now=now)
    return key


class KeyRing:
    """Checks the keys of one daemon, and remembers a good one for a moment.

    To ask the database takes a thread and a transaction, for every request of a client that sends
    hundreds a second. A key that is revoked is therefore good for up to REMEMBERED_S more; one that
    ends, ends on time, and one that was refused is asked for again.
    """

    def __init__(
        self, engine: Engine, pepper: bytes, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.engine = engine
        self.pepper = pepper
        self._clock = clock
        self._good: dict[bytes, tuple[float, Caller]] = {}

    def remembered(self, key: str, *, now: datetime) -> Caller | None:
        """Whose key it is, without asking; None where it has to be asked."""
        until, caller = self._good.get(_name_of(key), (0.0, None))
        if caller is None or until <= self._clock():
            return None
        return None if caller.expires_at is not None and caller.expires_at <= now else caller

    def check(self, key: str, *, now: datetime) -> Caller:
        """Ask the database. Raises NotAllowed."""
        asked_at = self._clock()
        with reading(self.engine) as session:
            caller = check_key(session, key, pepper=self.pepper, now=now)
        if len(self._good) >= MOST_REMEMBERED:
            self._good.clear()
        self._good[_name_of(key)] = (asked_at + REMEMBERED_S, caller)
        return caller


def _name_of(key: str) -> bytes:
    """A key's name in memory, from which it cannot be had back."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def revoke_key(session: Session, key_id: str, *, by: str, now: datetime) -> None:
    """Raises NotFound for an unknown key, Conflict for one that was revoked before."""
    row = session.get(ApiKey, key_id)
    if row is None:
        raise NotFound(f"There is no key {key_id}.")
    if row.revoked_at is not None:
        raise Conflict(f"Key {key_id} was already revoked at {row.revoked_at.isoformat()}.")
    row.revoked_at = now
    audit.record(session, Act.KEY_REVOKED, by=by, about={"key": key_id}, now=now)


def list_keys(session: Session) -> list[ApiKey]:
    return list(session.scalars(select(ApiKey).order_by(ApiKey.created_at)))


def _digest(secret: str, pepper: bytes) -> str:
    return hmac.new(pepper, secret.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
