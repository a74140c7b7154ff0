"""Who may refresh: a lease with a fencing token.

Every new owner gets a higher token, and every write that matters is guarded by it. A process that
was stopped past its lease, and wakes up after a successor began, can write nothing more.
"""

import os
import socket
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import CursorResult, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from adapters.store import is_alive
from service.errors import LeaseHeld, LeaseLost
from service.models import Lease

REFRESH = "refresh"
OPERATIONS = "operations"  #: of the daemon that carries out what admins asked for
#: Settings allow half of it: one that ends later was given by a clock that was set back since, or
#: is far ahead of ours. Who holds it all the same is fenced off by its token.
LONGEST = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """One ownership of one lease."""

    name: str
    owner: str
    token: int


def this_process() -> str:
    """How the holder of a lease calls itself."""
    return of_process(os.getpid())


def of_process(pid: int) -> str:
    """How a process of this machine calls itself as a holder."""
    return f"{socket.gethostname()}:{pid}"


def acquire_refresh(session: Session, *, now: datetime, lease_s: float) -> Hold:
    """Take the lease of the refresh for this process. Raises LeaseHeld."""
    return acquire(session, REFRESH, owner=this_process(), now=now, lease_s=lease_s)


def acquire(session: Session, name: str, *, owner: str, now: datetime, lease_s: float) -> Hold:
    """Take a lease that is free or expired. Raises LeaseHeld that says by whom and how long."""
    lease = session.scalar(select(Lease).where(Lease.name == name).with_for_update())
    if lease is None:
        lease = Lease(name=name, owner=owner, token=0, expires_at=now)
        session.add(lease)
    elif _is_held(lease, now):
        raise LeaseHeld(
            f"{lease.owner} holds the lease of the {name} until "
            f"{lease.expires_at.isoformat(timespec='seconds')}; only one runs at a time."
        )
    lease.owner, lease.token = owner, lease.token + 1
    lease.expires_at = now + timedelta(seconds=lease_s)
    try:
        session.flush()
    except IntegrityError as error:  # another process made the row in the same moment
        raise LeaseHeld(f"The lease of the {name} was taken in this moment.") from error
    return Hold(name=name, owner=owner, token=lease.token)


def renew(session: Session, hold: Hold, *, now: datetime, lease_s: float) -> None:
    """Prolong the lease and guard the transaction that this stands in. Raises LeaseLost."""
    _set_expiry(session, hold, now + timedelta(seconds=lease_s))


def release(session: Session, hold: Hold, *, now: datetime) -> None:
    """Give the lease back and guard the transaction that this stands in. Raises LeaseLost."""
    _set_expiry(session, hold, now)


def release_of_dead(session: Session, name: str, *, now: datetime) -> None:
    """Let a lease end whose holder was a process of this machine that runs no more."""
    lease = session.get(Lease, name)
    if lease is not None and _is_held(lease, now):
        host, _, pid = lease.owner.rpartition(":")
        if host == socket.gethostname() and not is_alive(int(pid)):
            _set_expiry(session, Hold(name=name, owner=lease.owner, token=lease.token), now)


def is_held(session: Session, name: str, *, now: datetime) -> bool:
    lease = session.get(Lease, name)
    return lease is not None and _is_held(lease, now)


def is_overdue(session: Session, name: str, *, owner: str, now: datetime, lease_s: float) -> bool:
    """Whether it is the owner's still, and was not renewed for twice as long as it should be."""
    lease = session.get(Lease, name)
    expired_by = now - timedelta(seconds=lease_s)
    return lease is not None and lease.owner == owner and lease.expires_at < expired_by


def _is_held(lease: Lease, now: datetime) -> bool:
    return now < lease.expires_at <= now + LONGEST


def _set_expiry(session: Session, hold: Hold, expires_at: datetime) -> None:
    # One conditional UPDATE both checks the token and locks the row until the commit.
    done: CursorResult[tuple[()]] = session.execute(  # type: ignore[assignment]
        update(Lease)
        .where(Lease.name == hold.name, Lease.token == hold.token)
        .values(expires_at=expires_at)
    )
    if done.rowcount != 1:
        raise LeaseLost(
            f"{hold.owner} lost the lease of the {hold.name} (token {hold.token}) to a successor; "
            "nothing of this pass was published."
        )
