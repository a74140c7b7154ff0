"""Tell another system that the head moved: signed, again and again while it does not take it.

The daemon tells, whoever moved the head. Head moves are append-only, so they are the outbox
themselves; beside each stands what became of its delivery. A receiver gets each move once or more,
with the same id, and perhaps after a later one: `seq` says which is the newest. Signed as Standard
Webhooks has it (https://www.standardwebhooks.com): HMAC-SHA256 over "<id>.<timestamp>.<body>".
"""

import base64
import hashlib
import hmac
import json
import logging
import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import httpx2
from sqlalchemy import Engine, Select, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from adapters.store import sync
from service import audit, lineage
from service.db import reading, writing
from service.errors import NotFound, SettingsError
from service.logs import event
from service.models import Delivery, HeadMove
from service.places import Places
from service.settings import Settings, WebhookSettings

log = logging.getLogger(__name__)

SECRET_PREFIX = "whsec_"  # noqa: S105
SECRET_BYTES = 32
LEAST_BYTES = 24  #: as Standard Webhooks asks
AT_ONCE = 5  #: moves in one look at the outbox, so that none is signed long before it is sent
FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 3600.0
GRACE_S = 1.0  #: beyond the client's own timeouts, so that these are told of
ANSWER_CHARACTERS = 200  #: of an error, in what is kept of it


def webhook_secret(settings: Settings) -> str:
    """What messages are signed with, made at first sight; its owner alone can read it."""
    path = Places(settings.state_dir).webhook_secret
    if not path.exists():
        text = SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
        descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.link(name, path)  # of two that make one, one wins
            sync(path.parent)
        except FileExistsError:
            pass
        finally:
            Path(name).unlink()
    return path.read_text(encoding="utf-8", errors="replace").strip()


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`. Raises SettingsError for a secret that is none."""
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError as error:
        raise SettingsError("The webhook secret is not base64 behind `whsec_`.") from error
    if len(key) < LEAST_BYTES:
        raise SettingsError(f"The webhook secret is shorter than {LEAST_BYTES} bytes.")
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def deliver_due(
    settings: Settings,
    engine: Engine,
    *,
    now: datetime,
    is_ending: Callable[[], bool] = lambda: False,
) -> int:
    """Send the newest few that are due; how many were taken. Nothing without `webhook.url`.

    Whoever `is_ending` begins no other one.

    No transaction is open while a receiver is waited for. One that fails is tried again after a
    pause that doubles each time, until the move is `webhook.give_up_after_s` old; the newest one
    for ever, as it says what the head is.
    """
    if settings.webhook.url is None:
        return 0
    with reading(engine) as session:
        due = _due(session, settings.webhook, now)
    return sum(send(settings, engine, seq, now=now) for seq in due if not is_ending())


def send(settings: Settings, engine: Engine, seq: int, *, now: datetime) -> bool:
    """Send one head move, whatever became of it before; whether the receiver took it.

    Raises NotFound for an unknown move, SettingsError where no receiver or no secret is set.
    """
    url = settings.webhook.url
    if url is None:
        raise SettingsError("There is nobody to tell: set webhook.url.")
    with reading(engine) as session:
        body = _message(session, seq)
    message_id, timestamp = f"head-move-{seq}", int(now.timestamp())
    headers = {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(webhook_secret(settings), message_id, timestamp, body),
    }
    error = _post(str(url), body, headers, settings.webhook.timeout_s)
    try:
        with writing(engine) as session:
            _record(session, seq, error, now=now)
    except IntegrityError:  # another daemon told of it for the first time in the same moment
        with writing(engine) as session:
            _record(session, seq, error, now=now)
    if error is None:
        log.info("head move %s was delivered", seq, extra=event("delivered", head_move=seq))
    else:
        about = event("delivery_failed", head_move=seq)
        log.warning("head move %s was not delivered: %s", seq, error, extra=about)
    return error is None


def _post(url: str, body: bytes, headers: dict[str, str], timeout_s: float) -> str | None:
    """What went wrong; None where the receiver said 2xx. Redirects are not followed.

    A client's timeouts are of single reads, and a receiver could answer a byte at a time for ever:
    so a thread waits for it, which is left alone soon after that and keeps no process alive.
    """
    said: list[str | None] = []

    def post() -> None:
        try:
            with httpx2.stream(
                "POST", url, content=body, headers=headers, timeout=timeout_s
            ) as answer:  # its body is not read
                good = answer.is_success
                said.append(None if good else f"the receiver answered {answer.status_code}")
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            said.append(f"{type(error).__name__}: {error}"[:ANSWER_CHARACTERS])

    waiting = threading.Thread(target=post, name="webhook", daemon=True)
    waiting.start()
    waiting.join(timeout_s + GRACE_S)
    return said[0] if said else f"the receiver did not come to its answer's end in {timeout_s:g} s"


def count_failing(session: Session, webhook: WebhookSettings, now: datetime) -> int:
    """How many head moves were not taken when they were told, and will be told again."""
    if webhook.url is None:
        return 0
    failing = _open(webhook, now).where(Delivery.seq.is_not(None))
    return session.scalar(select(func.count()).select_from(failing.subquery())) or 0


def _open(webhook: WebhookSettings, now: datetime) -> Select[int]:
    """Head moves that are still to be told."""
    newest = select(func.max(HeadMove.seq)).scalar_subquery()
    is_young = HeadMove.moved_at > now - timedelta(seconds=webhook.give_up_after_s)
    return (
        select(HeadMove.seq)
        .outerjoin(Delivery, Delivery.seq == HeadMove.seq)
        .where(or_(is_young, HeadMove.seq == newest), Delivery.delivered_at.is_(None))
    )


def _due(session: Session, webhook: WebhookSettings, now: datetime) -> Sequence[int]:
    due = session.scalars(
        _open(webhook, now)
        .where(
            or_(Delivery.next_at.is_(None), Delivery.next_at <= now),
        )
        .order_by(HeadMove.seq.desc())
        .limit(AT_ONCE)
    )
    return sorted(due)


def _message(session: Session, seq: int) -> bytes:
    """What a receiver is told: numbers and digests, and no word of a fact or of a reason."""
    move = session.get(HeadMove, seq)
    if move is None:
        raise NotFound(f"There is no head move {seq}.")
    before = session.get(HeadMove, seq - 1)
    head = lineage.line_at(session, move.release_id, seq=seq)
    told = {
        "type": "head.moved",
        "timestamp": move.moved_at.isoformat(),
        "data": {
            "seq": seq,
            "action": move.action,
            "release_id": move.release_id,
            "previous_release_id": None if before is None else before.release_id,
            "adapters": list(head.recipe.adapter_ids),
            "snapshot_digest": head.snapshot_digest,
            "audit_digest": audit.digest_of_move(session, seq),
        },
    }
    return json.dumps(told, separators=(",", ":")).encode()


def _record(session: Session, seq: int, error: str | None, *, now: datetime) -> None:
    row = session.get(Delivery, seq)
    if row is None:
        row = Delivery(seq=seq, attempts=0)
        session.add(row)
    row.attempts += 1
    row.error = error
    if error is None:
        row.delivered_at = now
    pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(row.attempts - 1, 16))
    row.next_at = now + timedelta(seconds=pause_s)
